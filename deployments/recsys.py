"""The `recsys` deployment: answers from each store's models, and trainings as Ray jobs."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from prometheus_client import generate_latest

from aihub.accounts.authenticator import KeyAuthenticator
from aihub.accounts.metrics import LimitMetrics
from aihub.accounts.rate_limits import RateLimits
from aihub.accounts.settings import LimitSettings
from aihub.core.cache import Cache
from aihub.core.errors import ConflictError, HubError, InternalError, UnavailableError
from aihub.core.health import PartHealth
from aihub.core.job_server import JobServerError
from aihub.core.logging import configure_logging
from aihub.core.metrics import RequestMetrics
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.settings import Settings
from aihub.http.app import create_prediction_app
from aihub.http.local_server import LocalServer
from aihub.http.services import PredictionServices
from aihub.recsys.artifacts import MODEL_TYPES, ModelType
from aihub.recsys.data.live import LiveShop
from aihub.recsys.open_models import OpenModels
from aihub.recsys.predictions import Predictions
from aihub.recsys.schemas import (
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
from aihub.recsys.serializers import (
    next_items_answer,
    recommendations_answer,
    rollback_answer,
    served_model,
    training_answer,
    training_job,
    trending_answer,
)
from aihub.recsys.service import TrainingService
from aihub.recsys.settings import RecsysSettings
from aihub.recsys.tables.open_runs import OpenRunTable
from aihub.recsys.tables.runs import ENDED, TRAINING_DIED, RunRecord, TrainingRunTable
from aihub.recsys.trainers import choose_loader, with_defaults
from aihub.recsys.training import TrainingPlace
from aihub.recsys.training_jobs import TrainingCleanup, TrainingWatch, training_command
from aihub.usage.metrics import UsageMetrics
from aihub.usage.recorder import UsageRecorder
from aihub.usage.settings import UsageSettings
from aihub.usage.tables.usage_records import UsageTable
from deployments.cancellation import quiet_refusals
from deployments.local_fast_path import RECSYS, socket_path
from deployments.metering import metered, new_meter
from deployments.request_costs import RequestCosts
from deployments.training_jobs import TrainingJobs

logger = logging.getLogger(__name__)


@metered(TrainingService)
class Recsys(TrainingService):
    """Called over its handle by the ingress."""

    async def __init__(self, settings: Settings, *, is_local: bool) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logging()
        quiet_refusals()
        assert settings.database_url is not None  # noqa: S101  # connect_stores() has set it
        self.meter = new_meter()
        recsys = RecsysSettings()
        dsn = settings.database_url.get_secret_value()
        self._recsys_settings = recsys
        self._place = TrainingPlace.of(recsys, hub_dsn=dsn, home=settings.home_path)
        self._database = Database(dsn, timeout_s=settings.storage_timeout_s)
        self._authenticator = KeyAuthenticator(self._database, is_local=is_local)
        self._runs = TrainingRunTable(self._database)
        self._shop = LiveShop(
            self._place.shop_dsn, self._place.mapping, timeout_s=recsys.live_timeout_s, connections=recsys.live_connections
        )
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self._cache = Cache(redis_url, timeout_s=settings.cache_timeout_s)
        self._models = OpenModels(
            self._place.artifacts, {kind: choose_loader(kind) for kind in MODEL_TYPES}, most=recsys.max_models
        )
        self._predictions = Predictions(self._models, self._shop, self._cache, ttl_s=recsys.cache_ttl_s)
        self._jobs = TrainingJobs()
        self._metrics = RequestMetrics(prefix="aihub_recsys")
        usage_metrics = UsageMetrics(self._metrics.registry, prefix="aihub_recsys")
        costs, days = RequestCosts(self.meter), UsageSettings().days
        self._usage = UsageRecorder(UsageTable(self._database), usage_metrics, days=days, costs=costs)
        # The proxy brings `/predict` here without the ingress between; its calls over the handle go on.
        limit_metrics = LimitMetrics(self._metrics.registry, prefix="aihub_recsys")
        self._limiter = RateLimits(redis_url, LimitSettings(), limit_metrics, timeout_s=settings.cache_timeout_s)
        services = PredictionServices(
            settings, self._authenticator, self, self._metrics, usage=self._usage, limiter=self._limiter
        )
        self._server = LocalServer(create_prediction_app(services), socket_path(settings.home_path, RECSYS))
        self._tasks: list[asyncio.Task[None]] = []
        await self._database.open()
        await self._server.start()
        watch, cleanup = TrainingWatch(OpenRunTable(self._database), self._jobs), TrainingCleanup(self._runs, settings.home_path)
        self._tasks = [asyncio.create_task(watch.run()), asyncio.create_task(cleanup.run())]

    async def start_training(
        self, principal: Principal, store_id: int, model_type: ModelType, parameters: Mapping[str, Any]
    ) -> TrainingJob:
        """Start a training as a Ray job.

        Raises:
            ConflictError: The same store and model is being trained.
            UnavailableError: The cluster takes no jobs now.
        """
        chosen = with_defaults(self._recsys_settings, model_type, parameters)
        tenant = principal.tenant_id
        run = await self._runs.create(tenant, store_id, model_type, chosen)
        try:
            command = training_command(run.id, tenant=tenant, store_id=store_id, model_type=model_type, parameters=chosen)
            metadata = {"store_id": str(store_id), "model_type": model_type}
            await asyncio.to_thread(self._jobs.submit, command, run.id, 1, metadata=metadata)
        except JobServerError as error:
            logger.warning("A training job was not taken: %s", error)
            message = "The cluster takes no jobs now. Try again in half a minute."
            await self._runs.fail(tenant, run.id, code="no_job_server", message=message)
            raise UnavailableError(message, retry_after_s=30) from error
        return training_job(run)

    async def find_ended(self, keys: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return which of these trainings, by tenant and id, have ended or do not exist; one query for all."""
        still_open = await self._runs.find_open(keys)
        return [key for key in keys if key not in still_open]

    async def training_result(self, principal: Principal, job_id: str) -> TrainingAnswer:
        """Return how a training ended that has.

        Raises:
            HubError: What it failed with; `ConflictError` when it was cancelled, or has not ended.
        """
        run = await self._runs.get(principal.tenant_id, job_id)
        if run.status not in ENDED:
            raise ConflictError(f"The training {job_id} has not ended. GET /train/jobs/{job_id} says how far it is.")
        if run.status != "succeeded":
            raise _failure_of(run)
        return training_answer(run)

    async def job(self, principal: Principal, job_id: str) -> TrainingJob:
        return training_job(await self._runs.get(principal.tenant_id, job_id))

    async def cancel_job(self, principal: Principal, job_id: str) -> TrainingJob:
        run = await self._runs.request_cancel(principal.tenant_id, job_id)
        if run.status == "cancelled" and run.attempts > 0:
            # Nothing works on it; a job that is only starting need not go on. It would find itself cancelled anyway.
            with suppress(JobServerError):
                await asyncio.to_thread(self._jobs.stop, run.id, run.attempts)
        return training_job(run)

    async def status(self, principal: Principal, store_id: int) -> StoreStatus:
        tenant = principal.tenant_id
        models, runs = await asyncio.gather(self._runs.store_models(tenant, store_id), self._runs.recent(tenant, store_id))
        return StoreStatus(
            store_id=store_id, models=[served_model(model) for model in models], jobs=[training_job(run) for run in runs]
        )

    async def rollback(self, principal: Principal, store_id: int, model_type: ModelType) -> RollbackAnswer:
        """Serve the version before the current one again."""
        version = await asyncio.to_thread(self._place.artifacts(principal.tenant_id).rollback, store_id, model_type)
        path = version.path.relative_to(self._place.home).as_posix()
        await self._runs.set_store_model(
            principal.tenant_id, store_id, model_type, version=version.name, model_path=path, metrics=version.metrics
        )
        return rollback_answer(store_id, model_type, version, path)

    async def recommendations(self, principal: Principal, request: RecommendationsRequest) -> RecommendationsAnswer:
        answer = await self._predictions.recommendations(
            principal.tenant_id, request.store_id, request.user_id, request.n, exclude_purchased=request.exclude_purchased
        )
        return recommendations_answer(request.store_id, request.user_id, answer)

    async def trending(self, principal: Principal, request: TrendingRequest) -> TrendingAnswer:
        return trending_answer(
            request.store_id, await self._predictions.trending(principal.tenant_id, request.store_id, request.n)
        )

    async def next_items(self, principal: Principal, request: NextItemsRequest) -> NextItemsAnswer:
        answer = await self._predictions.next_items(
            principal.tenant_id, request.store_id, request.item_history, request.top_k, exclude_history=request.exclude_history
        )
        return next_items_answer(request.store_id, request.item_history, answer)

    async def metrics(self) -> bytes:
        """Metrics of the requests that came without the ingress, in Prometheus' text format."""
        return generate_latest(self._metrics.registry)

    async def health(self) -> PartHealth:
        """Answer the ingress's probe."""
        return PartHealth("ok")

    async def __del__(self) -> None:
        await self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        parts = (self._usage, self._shop, self._cache, self._authenticator, self._limiter)
        await asyncio.gather(*(part.close() for part in parts), return_exceptions=True)
        await self._database.close()


def _failure_of(run: RunRecord) -> HubError:
    """Return the error a training ended with; the log has its code and words."""
    error = run.error or {}
    message = error.get("message") or run.message or f"The training ended as {run.status}."
    code = error.get("code") or f"training_{run.status}"
    kind = (
        InternalError
        if code in {InternalError.code, TRAINING_DIED}
        else UnavailableError
        if run.status == "interrupted"
        else ConflictError
    )
    return kind(message, code=code)
