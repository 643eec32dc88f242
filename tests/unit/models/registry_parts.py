"""A registry service that answers from memory and remembers what it was asked."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from aihub.core.errors import ConflictError, HubError, InvalidRequestError, NotFoundError
from aihub.models.keys import ModelKey
from aihub.models.store.downloads.orders import Job, JobEvent
from aihub.models.store.reports import (
    CleanupReport,
    DetectionReport,
    MachineItem,
    RecommendationReport,
    RegistryHealth,
    RegistryStatus,
    SourceItem,
    UpdateReport,
    UseCount,
    ValidationReport,
    VersionItem,
)

JOB_ID = "dl-0123456789abcdef"
VERSION = VersionItem(key="vosk:vi", digest="a" * 64, size_bytes=5, installed_at=1.0, pinned=False, is_current=True)


def job(**changes: Any) -> Job:
    return Job.model_validate({"id": JOB_ID, "key": "vosk:vi", "status": "running", "created_at": 1.0} | changes)


class FakeRegistry:
    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.events: list[JobEvent] = [JobEvent.of(job(status="succeeded"))]
        self.pause_s = 0.0
        self.error: HubError | None = None
        self.is_closed = False

    def _note(self, *asked: Any) -> None:
        if self.error is not None:
            raise self.error
        self.asked.append(asked)

    async def status(self) -> RegistryStatus:
        self._note("status")
        return RegistryStatus(
            total_models=2,
            available_models=1,
            required_models=1,
            missing_required=1,
            missing_required_keys=["vosk:vi"],
            models_by_type={"vosk": ["vosk:en", "vosk:vi"]},
            models_by_use={"speech": UseCount(total=2, available=1)},
            model_details={},
        )

    async def detect(self) -> DetectionReport:
        self._note("detect")
        return DetectionReport(models=[], sources={"ollama": SourceItem(available=False, detail="không trả lời")})

    async def recommended(self) -> RecommendationReport:
        self._note("recommended")
        machine = MachineItem(ram_bytes=1, gpu_name=None, gpu_memory_bytes=0, disk_free_bytes=1)
        return RecommendationReport(machine=machine, models=[])

    async def health(self) -> RegistryHealth:
        self._note("health")
        return RegistryHealth(status="degraded", missing_required=["vosk:vi"], problems=["x"], disk_free_bytes=1)

    async def ensure(self, keys: Sequence[ModelKey] | None) -> list[Job]:
        self._note("ensure", keys)
        return [job(status="queued")]

    async def start_download(self, key: ModelKey) -> Job:
        self._note("download", key)
        if key.is_remote:
            raise ConflictError(f"{key} runs at a service and is not downloaded.")
        return job(status="queued", key=str(key))

    async def jobs(self) -> list[Job]:
        self._note("jobs")
        return [job()]

    async def job(self, job_id: str) -> Job:
        self._note("job", job_id)
        if job_id != JOB_ID:
            raise NotFoundError("There is no such download.", param="job_id")
        return job()

    async def job_events(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        self._note("events", job_id)
        try:
            for event in self.events:
                await asyncio.sleep(self.pause_s)
                yield event
        finally:
            self.is_closed = True

    async def cancel_job(self, job_id: str) -> Job:
        self._note("cancel", job_id)
        return job(status="cancelled")

    async def validate(self, keys: Sequence[ModelKey] | None, *, with_load: bool) -> ValidationReport:
        self._note("validate", keys, with_load)
        return ValidationReport(is_good=True, results=[])

    async def cleanup(self, *, keep: int) -> CleanupReport:
        self._note("cleanup", keep)
        return CleanupReport(removed=[VERSION], freed_bytes=5)

    async def configuration(self) -> dict[str, Any]:
        self._note("configuration")
        return {"max_concurrent_downloads": 2}

    async def configure(self, changes: Mapping[str, Any], *, actor: str) -> dict[str, Any]:
        self._note("configure", dict(changes))
        if "unknown" in changes:
            raise InvalidRequestError("There is no setting of that name.", param="unknown", code="unknown_setting")
        return {"max_concurrent_downloads": 4}

    async def versions(self, key: ModelKey) -> list[VersionItem]:
        self._note("versions", key)
        return [VERSION]

    async def check_update(self, key: ModelKey) -> UpdateReport:
        self._note("update", key)
        return UpdateReport(key=str(key), installed=None, upstream=None, update_available=None, detail="chưa cài")

    async def pin(self, key: ModelKey, digest: str | None) -> VersionItem:
        self._note("pin", key, digest)
        return VERSION

    async def unpin(self, key: ModelKey) -> VersionItem:
        self._note("unpin", key)
        return VERSION

    async def rollback(self, key: ModelKey) -> VersionItem:
        self._note("rollback", key)
        return VERSION
