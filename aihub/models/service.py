"""What the routes need of local models and of the registry, as Protocols. They raise `HubError` only."""

from collections.abc import AsyncGenerator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

from aihub.core.principal import DEFAULT_TENANT
from aihub.models.configuration import HubConfiguration
from aihub.models.keys import ModelKey
from aihub.models.memory.state import Directory, ReadyModel, UnloadLevel
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

    async def status(self) -> LifecycleStatus: ...

    async def load(self, model_id: str, *, force_reload: bool) -> ModelStatus:
        """Return once the model is ready; the load goes on when the caller leaves."""
        ...

    async def unload(self, model_id: str, *, level: UnloadLevel) -> ModelStatus:
        """Return once the model's memory is back; `ConflictError` when it is pinned or stays busy.

        With the level `sleep` its state is `sleeping` afterwards, or `unloaded` where it cannot sleep.
        """
        ...

    async def pin(self, model_id: str) -> ModelStatus: ...

    async def unpin(self, model_id: str) -> ModelStatus: ...

    async def info(self, model_id: str) -> ModelInfo: ...

    async def update_generation_config(self, model_id: str, changes: GenerationDefaults) -> GenerationDefaults:
        """Change the fields set in `changes` (null included) and return what is in force."""
        ...

    async def clear_cache(self, model_id: str) -> bool:
        """Forget cached prompts; False when requests in flight still hold them."""
        ...


@dataclass(frozen=True, slots=True)
class ModelView:
    """What an ingress replica must know of one local model.

    Attributes:
        state: As people see it, see `ModelState`.
        is_starting: The load that a start of the hub began has not ended.
        max_images: Images one request may hold; 0 for a model that reads text only.
        version: Changes with all at the model that an answer depends on; empty while it is changing.
    """

    model_id: str
    state: str
    is_starting: bool
    failure: str | None
    types: tuple[str, ...]
    languages: tuple[str, ...]
    context_tokens: int
    weights_bytes: int
    fits: bool
    max_images: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True)
class AdapterView:
    """What an ingress replica must know of one adapter that can be asked.

    Attributes:
        adapter_id: `base:name@v1`.
        alias: `base:name` where it is the promoted version, else None.
        base: The local model it belongs to.
        created: Unix seconds.
        tenant_id: Whose it is; others do not see it.
    """

    adapter_id: str
    alias: str | None
    base: str
    created: int
    tenant_id: str = DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class ModelsReport:
    """Answer to an ingress replica's report."""

    directory: Directory
    models: tuple[ModelView, ...]
    configuration: HubConfiguration
    adapters: tuple[AdapterView, ...] = ()


class ModelManager(Protocol):
    """What an ingress replica asks of the process that loads models, beside the services."""

    async def report(
        self,
        client_id: str,
        in_flight: Mapping[str, int],
        used: Set[str],
        seen_version: int,
        tokens_per_s: Mapping[str, float],
    ) -> ModelsReport:
        """Take a replica's report; see `ModelLifecycle.report`."""
        ...

    async def ensure(self, model_id: str, wait_s: float | None = None) -> ReadyModel:
        """Return once the model can be asked; see `ModelLifecycle.ensure`."""
        ...

    async def adapters(self) -> tuple[AdapterView, ...]:
        """Return the adapters that can be asked, as they are on the disk now."""
        ...

    async def exchange_metrics(self, replica: str, text: bytes) -> dict[str, bytes]:
        """Take the metrics of a replica and return those of all."""
        ...


Keys = Sequence[ModelKey]


class RegistryService(Protocol):
    """Every model the hub could use. Keys fit the grammar; whether there is such a model is the service's to say."""

    async def status(self) -> RegistryStatus: ...

    async def detect(self) -> DetectionReport: ...

    async def recommended(self) -> RecommendationReport: ...

    async def health(self) -> RegistryHealth: ...

    async def ensure(self, keys: Keys | None) -> list[Job]:
        """Start getting those of `keys` that are not here; the missing required ones when None."""
        ...

    async def start_download(self, key: ModelKey) -> Job: ...

    async def jobs(self) -> list[Job]:
        """The last jobs, newest first."""
        ...

    async def job(self, job_id: str) -> Job: ...

    def job_events(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """The newest snapshot now and after each change, up to the end."""
        ...

    async def cancel_job(self, job_id: str) -> Job: ...

    async def validate(self, keys: Keys | None, *, with_load: bool) -> ValidationReport: ...

    async def cleanup(self, *, keep: int) -> CleanupReport: ...

    async def configuration(self) -> dict[str, Any]:
        """The settings as JSON values, secrets hidden."""
        ...

    async def configure(self, changes: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        """Change settings for good and return all; `actor` stands in the audit."""
        ...

    async def versions(self, key: ModelKey) -> list[VersionItem]: ...

    async def check_update(self, key: ModelKey) -> UpdateReport: ...

    async def pin(self, key: ModelKey, digest: str | None) -> VersionItem: ...

    async def unpin(self, key: ModelKey) -> VersionItem: ...

    async def rollback(self, key: ModelKey) -> VersionItem: ...
