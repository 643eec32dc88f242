"""What the operator sets for recommendations: `RECSYS_...`, the shop's database (also `DB_HOST`, `DB_PORT`, ...), and trainings.

Null in a training leaves it to the operator's setting, else to the hub's own choice. The same classes read the environment
(`RECSYS_RECOMMENDATION__DIM=64`, or JSON in `RECSYS_RECOMMENDATION`) and, made strict, the bodies of requests.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import SettingsConfigDict

from aihub.core.errors import ConfigurationError
from aihub.core.profiles import StrictModel
from aihub.core.typed_configuration import EnvironmentSettings
from aihub.recsys.data.mapping import MAPPING_PATH

Port = Annotated[int, Field(ge=1, le=65535)]


class ShopDatabase(EnvironmentSettings):
    """Five variables that make one address.

    Attributes:
        host: `localhost` when unset; a path is the folder of a Unix socket.

    Raises:
        ConfigurationError: A variable has a wrong value.
    """

    model_config = SettingsConfigDict(env_prefix="DB_", extra="ignore", frozen=True, env_ignore_empty=True)

    host: str | None = None
    port: Port = 5432
    name: str | None = None
    user: str | None = None
    password: SecretStr | None = None

    def url(self) -> SecretStr | None:
        """Return the address as a PostgreSQL URL; None where neither `DB_HOST` nor `DB_NAME` is set.

        Raises:
            ConfigurationError: `DB_HOST` is set and `DB_NAME` is not.
        """
        if self.name is None:
            if self.host is None:
                return None
            raise ConfigurationError(
                "DB_HOST is set, but DB_NAME is not: name the shop's database, set RECSYS_DATABASE_URL, or unset DB_HOST."
            )
        host = self.host or "localhost"
        place = f"[{host}]" if ":" in host else quote(host, safe="")
        secret = f":{quote(self.password.get_secret_value(), safe='')}" if self.password is not None else ""
        user = f"{quote(self.user, safe='')}{secret}@" if self.user is not None else ""
        return SecretStr(f"postgresql://{user}{place}:{self.port}/{quote(self.name, safe='')}")


Seconds = Annotated[float, Field(ge=1.0, le=7200.0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class HyperParameters(StrictModel):
    """Base of the three kinds."""

    def chosen(self) -> dict[str, Any]:
        """Return what is set, by name, as JSON values."""
        return self.model_dump(mode="json", exclude_none=True)


class RecommendationParameters(HyperParameters):
    """Item neighbours, linear models, matrix factors (iALS) and NeuMF."""

    model: Literal["auto", "popular", "knn", "rp3beta", "ease", "ials", "neumf"] | None = Field(
        default=None,
        description="`auto` trains all and keeps the best, or a blend. Any other is kept unless popularity is better.",
    )
    dim: Annotated[int, Field(ge=4, le=512)] | None = Field(default=None, description="Numbers per user and item (iALS).")
    regularisation: Annotated[float, Field(ge=0.0, le=10.0, allow_inf_nan=False)] | None = None
    unobserved_weight: Annotated[float, Field(gt=0.0, le=10.0, allow_inf_nan=False)] | None = None
    search: bool | None = Field(default=None, description="Search for better values of those before that are not set.")
    pretrain: bool | None = Field(default=None, description="Start NeuMF from matrix factors.")
    factors: Annotated[int, Field(ge=4, le=256)] | None = Field(
        default=None, description="Size of NeuMF's product without `pretrain`; with it, `dim`."
    )
    tower: Annotated[int, Field(ge=4, le=256)] | None = Field(default=None, description="Size of NeuMF's network.")
    negatives: Annotated[int, Field(ge=1, le=64)] | None = None
    learning_rate: Rate | None = None
    batch_size: Annotated[int, Field(ge=8, le=262_144)] | None = None
    epochs: Annotated[int, Field(ge=1, le=200)] | None = None
    patience: Annotated[int, Field(ge=1, le=50)] | None = None
    time_limit_s: Seconds | None = Field(default=None, description="After which no further epoch starts.")
    seed: Seed | None = None


class TrendingParameters(HyperParameters):
    """Sales forecast."""

    period: Literal["day", "week"] | None = None
    max_periods: Annotated[int, Field(ge=8, le=1_500)] | None = Field(default=None, description="Newest periods looked at.")
    examined_periods: Annotated[int, Field(ge=1, le=60)] | None = Field(default=None, description="Newest periods held out.")
    max_fit_s: Seconds | None = None
    trees: Annotated[int, Field(ge=1, le=5_000)] | None = None
    leaves: Annotated[int, Field(ge=2, le=255)] | None = None
    learning_rate: Annotated[float, Field(ge=0.001, le=1.0, allow_inf_nan=False)] | None = None
    seed: Seed | None = None


class NextItemParameters(HyperParameters):
    """Sequence rules, session neighbours, learned ranking."""

    max_events: Annotated[int, Field(ge=1, le=50_000_000)] | None = None
    window_items: Annotated[int, Field(ge=2, le=200)] | None = None
    ranking_histories: Annotated[int, Field(ge=0, le=200_000)] | None = Field(
        default=None, description="Histories the learned ranking sees; 0 turns it off."
    )
    trees: Annotated[int, Field(ge=1, le=1_000)] | None = None
    leaves: Annotated[int, Field(ge=2, le=255)] | None = None
    learning_rate: Annotated[float, Field(ge=0.001, le=1.0, allow_inf_nan=False)] | None = None
    max_fit_s: Annotated[float, Field(ge=1.0, le=3600.0, allow_inf_nan=False)] | None = None
    seed: Seed | None = None


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
