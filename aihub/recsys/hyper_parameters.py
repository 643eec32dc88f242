"""What may be set of a training, and its bounds. Null leaves it to the operator's setting, else to the hub's own choice.

The same classes read the operator's environment (`RECSYS_RECOMMENDATION__DIM=64`, or JSON in `RECSYS_RECOMMENDATION`) and, made
strict, the bodies of requests.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from aihub.profiles import StrictModel

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
