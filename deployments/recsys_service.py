"""The service behind `/train` and `/predict`: over the handle of the `recsys` application, and inside its replica."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol, TypeVar

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
from aihub.recsys.training_jobs import Key, TrainingWaits
from deployments.handles import AppConnection

Result = TypeVar("Result")


class RemoteRecsys:
    """Implements `aihub.recsys.service.RecsysService`."""

    def __init__(self, recsys: AppConnection) -> None:
        self._recsys = recsys
        self._waits = TrainingWaits(self._find_ended)

    async def close(self) -> None:
        """Let go of those who wait for trainings."""
        await self._waits.close()

    async def start_training(
        self, principal: Principal, store_id: int, model_type: ModelType, parameters: Mapping[str, Any]
    ) -> TrainingJob:
        return await self._call(TrainingJob, "start_training", principal, store_id, model_type, dict(parameters))

    async def finish_training(self, principal: Principal, job_id: str) -> TrainingAnswer:
        # Waited for here: a call that lasts hours would hold one of the few requests the recommender answers at a time.
        await self._waits.wait(principal.tenant_id, job_id)
        return await self._call(TrainingAnswer, "training_result", principal, job_id)

    async def job(self, principal: Principal, job_id: str) -> TrainingJob:
        return await self._call(TrainingJob, "job", principal, job_id)

    async def cancel_job(self, principal: Principal, job_id: str) -> TrainingJob:
        return await self._call(TrainingJob, "cancel_job", principal, job_id)

    async def status(self, principal: Principal, store_id: int) -> StoreStatus:
        return await self._call(StoreStatus, "store_status", principal, store_id)

    async def rollback(self, principal: Principal, store_id: int, model_type: ModelType) -> RollbackAnswer:
        return await self._call(RollbackAnswer, "rollback", principal, store_id, model_type)

    async def recommendations(self, principal: Principal, request: RecommendationsRequest) -> RecommendationsAnswer:
        return await self._call(RecommendationsAnswer, "recommendations", principal, request)

    async def trending(self, principal: Principal, request: TrendingRequest) -> TrendingAnswer:
        return await self._call(TrendingAnswer, "trending", principal, request)

    async def next_items(self, principal: Principal, request: NextItemsRequest) -> NextItemsAnswer:
        return await self._call(NextItemsAnswer, "next_items", principal, request)

    async def _find_ended(self, keys: Collection[Key]) -> Collection[Key]:
        ended: Collection[Key] = await self._recsys.call("find_ended", list(keys))
        return ended

    async def _call(self, result_type: type[Result], method: str, principal: Principal, *args: Any) -> Result:
        """Call the application; `result_type` is what that method returns, for the type checker."""
        result: Result = await self._recsys.call(method, principal.tenant_id, *args)
        return result


class TenantPredictions(Protocol):
    """What the replica offers over its handle: the tenant in the principal's place."""

    async def recommendations(self, tenant: str, request: RecommendationsRequest) -> RecommendationsAnswer: ...

    async def trending(self, tenant: str, request: TrendingRequest) -> TrendingAnswer: ...

    async def next_items(self, tenant: str, request: NextItemsRequest) -> NextItemsAnswer: ...


class OwnPredictions:
    """Implements `aihub.recsys.service.PredictionService` inside the replica."""

    def __init__(self, replica: TenantPredictions) -> None:
        self._replica = replica

    async def recommendations(self, principal: Principal, request: RecommendationsRequest) -> RecommendationsAnswer:
        return await self._replica.recommendations(principal.tenant_id, request)

    async def trending(self, principal: Principal, request: TrendingRequest) -> TrendingAnswer:
        return await self._replica.trending(principal.tenant_id, request)

    async def next_items(self, principal: Principal, request: NextItemsRequest) -> NextItemsAnswer:
        return await self._replica.next_items(principal.tenant_id, request)
