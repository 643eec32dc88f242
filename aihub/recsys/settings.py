"""What the operator sets for recommendations; every field is an environment variable `RECSYS_...`."""

from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import SettingsConfigDict

from aihub.recsys.hyper_parameters import NextItemParameters, RecommendationParameters, TrendingParameters
from aihub.recsys.store_data.mapping import MAPPING_PATH
from aihub.typed_environment import EnvironmentSettings


class RecsysSettings(EnvironmentSettings):
    """Where shops keep their data, and the limits of training and serving."""

    model_config = SettingsConfigDict(
        env_prefix="RECSYS_", env_nested_delimiter="__", extra="ignore", frozen=True, env_ignore_empty=True
    )

    database_url: SecretStr | None = Field(default=None, description="A shop's own PostgreSQL; the hub's when unset.")
    mapping: Path = Field(default=MAPPING_PATH, description="Where tables and columns of the shop are named.")
    extraction_timeout_s: PositiveFloat = Field(default=600.0, description="Longest reading of a store, all statements together.")
    max_events: PositiveInt = Field(default=20_000_000, description="Most events of one store that are learnt from.")
    live_timeout_s: PositiveFloat = Field(default=2.0, description="Longest wait for what can be sold, per answer.")
    live_connections: PositiveInt = Field(default=8, description="Connections to the shop's database, per serving process.")
    max_models: PositiveInt = Field(default=32, description="Models kept open, per serving process.")
    cache_ttl_s: PositiveFloat = Field(default=300.0, description="How long an answer is kept in Redis.")
    keep_versions: PositiveInt = Field(default=3, description="Versions of a model kept on disk beside the served one.")
    recommendation: RecommendationParameters = Field(default_factory=RecommendationParameters, description="Its training.")
    trending: TrendingParameters = Field(default_factory=TrendingParameters, description="Its training.")
    next_item: NextItemParameters = Field(default_factory=NextItemParameters, description="Its training.")
