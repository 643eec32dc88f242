"""What the routes need of local models and of the registry, as Protocols. Principal first, `HubError` only."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from aihub.core.principal import Principal
from aihub.models.keys import ModelKey
from aihub.models.memory.state import UnloadLevel
from aihub.models.memory.status import LifecycleStatus, ModelStatus
from aihub.models.schemas import GenerationDefaults, ModelInfo
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


class LifecycleService(Protocol):
    """Local models in memory.

    Every method that names a model raises `NotFoundError` for one that is not installed; the last three raise
    `ModelUnavailableError` for one that is not loaded.
    """

    async def status(self, principal: Principal) -> LifecycleStatus: ...

    async def load(self, principal: Principal, model_id: str, *, force_reload: bool) -> ModelStatus:
        """Return once the model is ready; the load goes on when the caller leaves."""
        ...

    async def unload(self, principal: Principal, model_id: str, *, level: UnloadLevel) -> ModelStatus:
        """Return once the model's memory is back; `ConflictError` when it is pinned or stays busy.

        With the level `sleep` its state is `sleeping` afterwards, or `unloaded` where it cannot sleep.
        """
        ...

    async def pin(self, principal: Principal, model_id: str) -> ModelStatus: ...

    async def unpin(self, principal: Principal, model_id: str) -> ModelStatus: ...

    async def info(self, principal: Principal, model_id: str) -> ModelInfo: ...

    async def update_generation_config(
        self, principal: Principal, model_id: str, changes: GenerationDefaults
    ) -> GenerationDefaults:
        """Change the fields set in `changes` (null included) and return what is in force."""
        ...

    async def clear_cache(self, principal: Principal, model_id: str) -> bool:
        """Forget cached prompts; False when requests in flight still hold them."""
        ...


Keys = Sequence[ModelKey]


class RegistryService(Protocol):
    """Every model the hub could use. Keys fit the grammar; whether there is such a model is the service's to say."""

    async def status(self, principal: Principal) -> RegistryStatus: ...

    async def detect(self, principal: Principal) -> DetectionReport: ...

    async def recommended(self, principal: Principal) -> RecommendationReport: ...

    async def health(self, principal: Principal) -> RegistryHealth: ...

    async def ensure(self, principal: Principal, keys: Keys | None) -> list[Job]:
        """Start getting those of `keys` that are not here; the missing required ones when None."""
        ...

    async def start_download(self, principal: Principal, key: ModelKey) -> Job: ...

    async def jobs(self, principal: Principal) -> list[Job]:
        """The last jobs, newest first."""
        ...

    async def job(self, principal: Principal, job_id: str) -> Job: ...

    def job_events(self, principal: Principal, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """The newest snapshot now and after each change, up to the end."""
        ...

    async def cancel_job(self, principal: Principal, job_id: str) -> Job: ...

    async def validate(self, principal: Principal, keys: Keys | None, *, with_load: bool) -> ValidationReport: ...

    async def cleanup(self, principal: Principal, *, keep: int) -> CleanupReport: ...

    async def configuration(self, principal: Principal) -> dict[str, Any]:
        """The settings as JSON values, secrets hidden."""
        ...

    async def configure(self, principal: Principal, changes: Mapping[str, Any]) -> dict[str, Any]: ...

    async def versions(self, principal: Principal, key: ModelKey) -> list[VersionItem]: ...

    async def check_update(self, principal: Principal, key: ModelKey) -> UpdateReport: ...

    async def pin(self, principal: Principal, key: ModelKey, digest: str | None) -> VersionItem: ...

    async def unpin(self, principal: Principal, key: ModelKey) -> VersionItem: ...

    async def rollback(self, principal: Principal, key: ModelKey) -> VersionItem: ...
