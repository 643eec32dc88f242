"""Wire types of `/train` and `/predict`: recommendations. Ids are the shop's own; times are Unix seconds."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from aihub.core.schemas import ClosedModel, NullIsAbsent, ResponseModel
from aihub.recsys.settings import NextItemParameters, RecommendationParameters, TrendingParameters

ModelType = Literal["recommendation", "trending", "next_item"]
RunStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]

Id = Annotated[int, Field(ge=0, lt=2**63)]
"""A shop's id of anything."""

Count = Annotated[int, Field(ge=1, le=1000)]
"""How many items are wanted; a smaller catalogue gives fewer."""

_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=False)
Async = Annotated[bool, Field(alias="async", description="Answer at once with a job to follow.")]


class TrainRecommendationRequest(NullIsAbsent, RecommendationParameters):
    """Train the recommender of a store."""

    model_config = _STRICT
    store_id: Id
    is_async: Async = False

    def parameters(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True, exclude={"store_id", "is_async"})


class TrainTrendingRequest(NullIsAbsent, TrendingParameters):
    """Train the sales forecast of a store."""

    model_config = _STRICT
    store_id: Id
    is_async: Async = False

    def parameters(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True, exclude={"store_id", "is_async"})


class TrainNextItemRequest(NullIsAbsent, NextItemParameters):
    """Train what comes next in a store."""

    model_config = _STRICT
    store_id: Id
    is_async: Async = False

    def parameters(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True, exclude={"store_id", "is_async"})


class RollbackRequest(ClosedModel):
    """Serve the version of a model that was served before."""

    store_id: Id
    model_type: ModelType


class RecommendationsRequest(ClosedModel):
    """Items for a customer."""

    store_id: Id
    user_id: Id
    n: Count = 10
    exclude_purchased: bool = Field(default=True, description="Leave out what the customer has ordered.")


class TrendingRequest(ClosedModel):
    """What will sell next."""

    store_id: Id
    n: Count = 10


class NextItemsRequest(ClosedModel):
    """What may follow the items a customer has chosen, oldest first."""

    store_id: Id
    item_history: Annotated[list[Id], Field(max_length=1000)]
    top_k: Count = 10
    exclude_history: bool = Field(default=False, description="Leave out the items of the history itself.")


class RecommendedItem(ResponseModel):
    item_id: int
    variant_id: int = Field(description="The item's first variant in stock.")
    score: float = Field(description="Higher is better; comparable within one answer.")
    rank: int = Field(description="From 1.")


class RecommendationsAnswer(ResponseModel):
    success: Literal[True] = True
    store_id: int
    user_id: int
    recommendations: list[RecommendedItem]
    fallback: Literal["popular"] | None = Field(default=None, description="Set when the customer is unknown to the model.")
    model_version: str


class TrendingItem(ResponseModel):
    variant_id: int
    item_id: int
    predicted_sales: float = Field(description="Units in the next period.")
    trend_score: float
    rank: int


class TrendingAnswer(ResponseModel):
    success: Literal[True] = True
    store_id: int
    trending: list[TrendingItem]
    model_version: str


class NextItemPrediction(ResponseModel):
    item_id: int
    variant_id: int
    probability: float = Field(description="Share of the answer's whole score.")
    confidence: float = Field(description="Share of those with an item of the history who went on to this one; 0 without a rule.")
    support: int = Field(description="Sequences in which it did: how often it was seen.")
    support_share: float = Field(description="`support` over all sequences.")
    lift: float = Field(description="How many times as often as by chance it did; 0 without a rule.")
    rank: int


class NextItemAnswer(ResponseModel):
    """An entry of `next_items`: as in `predictions`, but `support` is the share."""

    item_id: int
    variant_id: int
    probability: float = Field(description="Share of the answer's whole score.")
    confidence: float = Field(description="Share of those with an item of the history who went on to this one; 0 without a rule.")
    support: float = Field(description="Share of all sequences in which it did.")
    lift: float = Field(description="How many times as often as by chance it did; 0 without a rule.")
    rank: int


class NextItemsAnswer(ResponseModel):
    success: Literal[True] = True
    store_id: int
    input_history: list[int] = Field(description="As asked, oldest first.")
    predictions: list[NextItemPrediction]
    next_items: list[NextItemAnswer] = Field(description="The same items for clients written before `predictions`.")
    fallback: Literal["popular"] | None = Field(default=None, description="Set when no item of the history is known.")
    model_version: str


Figures = dict[str, int | float | str]
"""Figures of a version by name, and its `model_version`."""


class TrainingAnswer(ResponseModel):
    """A training that has ended well."""

    success: Literal[True] = True
    status: Literal["success"] = "success"
    store_id: int
    model_type: ModelType
    metrics: Figures = Field(description="On the held-out data; `model_version` is the version as `v1.0`.")
    model_path: str = Field(description="Relative to the state folder.")
    version: str
    served: bool = Field(description="False when the model served until now is better on the same held-out data.")
    incumbent_metrics: Figures | None = None
    message: str
    job_id: str


class TrainingJobAnswer(ResponseModel):
    """A training that goes on."""

    success: Literal[True] = True
    job_id: str
    store_id: int
    model_type: ModelType
    status: RunStatus


class TrainingJob(ResponseModel):
    """One training now."""

    job_id: str
    store_id: int
    model_type: ModelType
    status: RunStatus
    step: str
    progress: float = Field(description="Share of the step that is done, 0 to 1.")
    cancel_requested: bool
    hyper_parameters: dict[str, Any]
    event_count: int | None
    metrics: Figures | None
    incumbent_metrics: Figures | None
    version: str | None
    served: bool | None
    model_path: str | None
    message: str | None
    error: dict[str, str] | None
    attempts: int = Field(description="Starts of its job: more than one when its process died, 0 for one of the command line.")
    created_at: int
    started_at: int | None
    ended_at: int | None


class ServedModel(ResponseModel):
    """A model that answers for a store."""

    model_type: ModelType
    version: str
    model_path: str
    metrics: Figures
    event_count: int
    training_id: str | None
    trained_at: int


class StoreStatus(ResponseModel):
    """What a store has, and its last trainings, newest first."""

    success: Literal[True] = True
    store_id: int
    models: list[ServedModel]
    jobs: list[TrainingJob]


class RollbackAnswer(ResponseModel):
    success: Literal[True] = True
    store_id: int
    model_type: ModelType
    version: str
    model_path: str
    metrics: Figures
