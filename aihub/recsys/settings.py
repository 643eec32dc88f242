"""What the operator sets for recommendations; every field is an environment variable `RECSYS_...`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import SettingsConfigDict

from aihub.recsys.hyper_parameters import NextItemParameters, RecommendationParameters, TrendingParameters
from aihub.recsys.shop_database import ShopDatabase
from aihub.recsys.store_data.mapping import MAPPING_PATH
from aihub.typed_environment import EnvironmentSettings


class RecsysSettings(EnvironmentSettings):
    """Where shops keep their data, and the limits of training and serving."""

    earlier_variables = {
        "RECOMMENDATION_BATCH_SIZE": "recommendation.batch_size",
        "RECOMMENDATION_EPOCHS": "recommendation.epochs",
    }

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

    @classmethod
    def earlier_values(cls, known: Mapping[str, Any]) -> dict[str, Any]:
        """Also read the shop's address from `DB_HOST` and its like, unless `RECSYS_DATABASE_URL` is set.

        Raises:
            ConfigurationError: They are wrong or not complete.
        """
        values = super().earlier_values(known)
        url = None if known.get("database_url") else ShopDatabase().url()
        return values if url is None else values | {"database_url": url}
