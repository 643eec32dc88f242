"""What the routes under `/train` and `/predict` need, as Protocols, and a limit on requests that wait for a training."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from aihub.core.errors import HubError
from aihub.core.principal import Principal
from aihub.recsys.schemas import (
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

if TYPE_CHECKING:
    pass


class PredictionService(Protocol):
    """Recommendations of all stores. Answers never name what is deleted or out of stock.

    All raise `NotFoundError` for a store without the model, saying how to train it.
    """

    async def recommendations(self, principal: Principal, request: RecommendationsRequest) -> RecommendationsAnswer: ...

    async def trending(self, principal: Principal, request: TrendingRequest) -> TrendingAnswer: ...

    async def next_items(self, principal: Principal, request: NextItemsRequest) -> NextItemsAnswer: ...


class TrainingService(PredictionService, Protocol):
    """Predictions, and the trainings behind them; no call waits for a training."""

    async def start_training(
        self, principal: Principal, store_id: int, model_type: ModelType, parameters: Mapping[str, Any]
    ) -> TrainingJob:
        """Start a training and return at once; `ConflictError` while the same store and model is being trained."""
        ...

    async def training_result(self, principal: Principal, job_id: str) -> TrainingAnswer:
        """Return how a training ended that has; raises what it failed with."""
        ...

    async def find_ended(self, keys: Collection[tuple[str, str]]) -> Collection[tuple[str, str]]:
        """Return which of these trainings, by tenant and id, have ended or do not exist."""
        ...

    async def job(self, principal: Principal, job_id: str) -> TrainingJob: ...

    async def cancel_job(self, principal: Principal, job_id: str) -> TrainingJob:
        """Ask a training to stop; one that has ended stays as it is."""
        ...

    async def status(self, principal: Principal, store_id: int) -> StoreStatus: ...

    async def rollback(self, principal: Principal, store_id: int, model_type: ModelType) -> RollbackAnswer: ...


class RecsysService(TrainingService, Protocol):
    """All that the routes need."""

    async def finish_training(self, principal: Principal, job_id: str) -> TrainingAnswer:
        """Wait for a training; raises what it failed with. The training goes on when the caller leaves."""
        ...


MAX_WAITING_TRAININGS = 16
"""Requests of one process that may wait for a training to end; each keeps a place of the API busy for as long as that takes."""


class WaitingPlaces:
    """A limit on requests that wait for something long."""

    def __init__(self, places: int) -> None:
        self._free = places

    @contextmanager
    def take(self, refusal: HubError) -> Iterator[None]:
        """Hold a place until left.

        Raises:
            HubError: `refusal`, when none is free.
        """
        if self._free <= 0:
            raise refusal
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


def new_training_places() -> WaitingPlaces:
    return WaitingPlaces(MAX_WAITING_TRAININGS)
