"""What the routes under `/models` need from the registry, as a Protocol. Like all services: principal first, `HubError` only."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from aihub.registry.downloads.events import Job, JobEvent
from aihub.registry.keys import ModelKey
from aihub.registry.reports import (
    CleanupReport,
    DetectionReport,
    RecommendationReport,
    RegistryHealth,
    RegistryStatus,
    UpdateReport,
    ValidationReport,
    VersionItem,
)
from aihub.security.principal import Principal

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
