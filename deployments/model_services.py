"""The services behind `/models` and `/api/v1/models`, over the handle of the `models` application."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeVar

from aihub.core.errors import ModelUnavailableError
from aihub.core.principal import Principal
from aihub.models.keys import ModelKey
from aihub.models.memory.state import IN_MEMORY, UnloadLevel
from aihub.models.memory.status import LifecycleStatus, ModelStatus
from aihub.models.schemas import GenerationDefaults, ModelInfo
from aihub.models.service import Keys
from aihub.models.store.downloads.orders import Job, JobEvent
from aihub.models.store.reports import (
    CleanupReport,
    DetectionReport,
    RecommendationReport,
    RegistryHealth,
    RegistryStatus,
    UpdateReport,
    ValidationReport,
    VersionItem,
)
from deployments.handles import AppConnection

Result = TypeVar("Result")


class RemoteRegistry:
    """Implements `aihub.models.service.RegistryService`."""

    def __init__(self, models: AppConnection) -> None:
        self._models = models

    async def status(self, principal: Principal) -> RegistryStatus:
        return await self._call(RegistryStatus, "status")

    async def detect(self, principal: Principal) -> DetectionReport:
        return await self._call(DetectionReport, "detect")

    async def recommended(self, principal: Principal) -> RecommendationReport:
        return await self._call(RecommendationReport, "recommended")

    async def health(self, principal: Principal) -> RegistryHealth:
        return await self._call(RegistryHealth, "health")

    async def ensure(self, principal: Principal, keys: Keys | None) -> list[Job]:
        return await self._call(list[Job], "ensure", keys if keys is None else [await self._known(key) for key in keys])

    async def start_download(self, principal: Principal, key: ModelKey) -> Job:
        return await self._call(Job, "download", key)

    async def jobs(self, principal: Principal) -> list[Job]:
        return await self._call(list[Job], "list")

    async def job(self, principal: Principal, job_id: str) -> Job:
        return await self._call(Job, "get", job_id)

    async def job_events(self, principal: Principal, job_id: str) -> AsyncGenerator[JobEvent, None]:
        async for event in self._models.stream("job_events", job_id):
            yield event

    async def cancel_job(self, principal: Principal, job_id: str) -> Job:
        return await self._call(Job, "cancel", job_id)

    async def validate(self, principal: Principal, keys: Keys | None, *, with_load: bool) -> ValidationReport:
        known = keys if keys is None else [await self._known(key) for key in keys]
        return await self._call(ValidationReport, "validate", known, with_load=with_load)

    async def cleanup(self, principal: Principal, *, keep: int) -> CleanupReport:
        return await self._call(CleanupReport, "cleanup", keep)

    async def configuration(self, principal: Principal) -> dict[str, Any]:
        return await self._call(dict[str, Any], "shown_configuration")

    async def configure(self, principal: Principal, changes: Mapping[str, Any]) -> dict[str, Any]:
        return await self._call(dict[str, Any], "configure", dict(changes), principal.tenant_id)

    async def versions(self, principal: Principal, key: ModelKey) -> list[VersionItem]:
        return await self._call(list[VersionItem], "versions", await self._known(key))

    async def check_update(self, principal: Principal, key: ModelKey) -> UpdateReport:
        return await self._call(UpdateReport, "check_update", await self._known(key))

    async def pin(self, principal: Principal, key: ModelKey, digest: str | None) -> VersionItem:
        return await self._call(VersionItem, "pin", await self._known(key), digest)

    async def unpin(self, principal: Principal, key: ModelKey) -> VersionItem:
        return await self._call(VersionItem, "unpin", await self._known(key))

    async def rollback(self, principal: Principal, key: ModelKey) -> VersionItem:
        return await self._call(VersionItem, "rollback", await self._known(key))

    async def _known(self, key: ModelKey) -> ModelKey:
        """Return the key in the capitals its model is known by; raise `InvalidRequestError` for others."""
        return await self._call(ModelKey, "parse_key", str(key))

    async def _call(self, result_type: type[Result], method: str, *args: Any, **options: Any) -> Result:
        """Call the registry; `result_type` is what that method returns, for the type checker."""
        result: Result = await self._models.call("registry_call", method, *args, **options)
        return result


class RemoteLifecycle:
    """Implements `aihub.models.service.LifecycleService`."""

    def __init__(self, models: AppConnection) -> None:
        self._models = models

    async def status(self, principal: Principal) -> LifecycleStatus:
        status: LifecycleStatus = await self._models.call("status")
        return status

    async def load(self, principal: Principal, model_id: str, *, force_reload: bool) -> ModelStatus:
        status: ModelStatus = await self._models.call("load", model_id, force_reload)
        return status

    async def unload(self, principal: Principal, model_id: str, *, level: UnloadLevel) -> ModelStatus:
        status: ModelStatus = await self._models.call("unload", model_id, level)
        return status

    async def pin(self, principal: Principal, model_id: str) -> ModelStatus:
        return await self._named("pin", model_id)

    async def unpin(self, principal: Principal, model_id: str) -> ModelStatus:
        return await self._named("unpin", model_id)

    async def info(self, principal: Principal, model_id: str) -> ModelInfo:
        status = await self._named("info", model_id)
        if status.state not in IN_MEMORY:
            raise ModelUnavailableError(f"The model {model_id!r} is not loaded. Load it first: POST /api/v1/models/load.")
        settings = await self._models.call("generation_defaults", model_id)
        memory_bytes = status.used_bytes or status.need_bytes
        return ModelInfo(
            model_id=model_id,
            device=status.device,
            memory_bytes=memory_bytes,
            gpu_name=settings["gpu_name"],
            gpu_memory_allocated=0.0 if status.device == "cpu" else round(memory_bytes / 1e9, 3),
            quantization=status.quantization,
            weight_bits=settings["weight_bits"],
            context_tokens=status.context_tokens,
            dtype=settings["dtype"],
            generation_config=GenerationDefaults.model_validate(settings["defaults"]),
        )

    async def update_generation_config(
        self, principal: Principal, model_id: str, changes: GenerationDefaults
    ) -> GenerationDefaults:
        values = changes.model_dump(exclude_unset=True)
        return GenerationDefaults.model_validate(await self._models.call("update_generation_config", model_id, values))

    async def clear_cache(self, principal: Principal, model_id: str) -> bool:
        return bool(await self._models.call("clear_cache", model_id))

    async def _named(self, method: str, model_id: str) -> ModelStatus:
        status: ModelStatus = await self._models.call("lifecycle_call", method, model_id)
        return status
