"""What the routes under `/train` and `/predict` need. Like all services: principal first, `HubError` only."""

from collections.abc import Mapping
from typing import Any, Protocol

from aihub.schemas.recsys import (
    ModelType,
    NextItemsAnswer,
    NextItemsRequest,
    RecommendationsAnswer,
    RecommendationsRequest,
    RollbackAnswer,
    StoreStatus,
    TrainingAnswer,
    TrainingJob,
    TrendingAnswer,
    TrendingRequest,
)
from aihub.security.principal import Principal


class PredictionService(Protocol):
    """Recommendations of all stores. Answers never name what is deleted or out of stock.

    All raise `NotFoundError` for a store without the model, saying how to train it.
    """

    async def recommendations(self, principal: Principal, request: RecommendationsRequest) -> RecommendationsAnswer: ...

    async def trending(self, principal: Principal, request: TrendingRequest) -> TrendingAnswer: ...

    async def next_items(self, principal: Principal, request: NextItemsRequest) -> NextItemsAnswer: ...


class RecsysService(PredictionService, Protocol):
    """Predictions, and the trainings behind them."""

    async def start_training(
        self, principal: Principal, store_id: int, model_type: ModelType, parameters: Mapping[str, Any]
    ) -> TrainingJob:
        """Start a training and return at once; `ConflictError` while the same store and model is being trained."""
        ...

    async def finish_training(self, principal: Principal, job_id: str) -> TrainingAnswer:
        """Wait for a training; raises what it failed with. The training goes on when the caller leaves."""
        ...

    async def job(self, principal: Principal, job_id: str) -> TrainingJob: ...

    async def cancel_job(self, principal: Principal, job_id: str) -> TrainingJob:
        """Ask a training to stop; one that has ended stays as it is."""
        ...

    async def status(self, principal: Principal, store_id: int) -> StoreStatus: ...

    async def rollback(self, principal: Principal, store_id: int, model_type: ModelType) -> RollbackAnswer: ...
