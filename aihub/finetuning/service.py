"""What the routes need of fine-tuning, as Protocols. Like all services: principal first, `HubError` only."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from aihub.core.principal import Principal

if TYPE_CHECKING:
    from aihub.core.schemas import Page
    from aihub.finetuning.adapter_schemas import AdapterReport, MergeReport, RollbackReport
    from aihub.finetuning.schemas import (
        FineTuningCheckpoint,
        FineTuningEvent,
        FineTuningJob,
        FineTuningRequest,
        ProgressPoint,
    )


class FineTuningService(Protocol):
    """Jobs. No call waits for a training; all that name a job raise `NotFoundError` for one that is not the tenant's."""

    async def create(
        self, principal: Principal, request: "FineTuningRequest", idempotency_key: str | None = None
    ) -> "FineTuningJob":
        """Check the model and the data, and queue the job; as one it is kept or leaves nothing.

        Raises:
            InvalidRequestError: The model or the data cannot be trained; the message says why, with the lines of the file.
            ConflictError: The key was used for another request.
            OverloadedError: Too many files are being checked.
            RateLimitError: The tenant has as many jobs queued or running as it may.
            UnavailableError: The disk is full.
        """
        ...

    async def list(
        self,
        principal: Principal,
        *,
        limit: int,
        after: str | None = None,
        metadata: Mapping[str, str] | None = None,
        without_metadata: bool = False,
    ) -> "Page[FineTuningJob]":
        """Newest first; with `metadata`, those that have all of these pairs."""
        ...

    async def get(self, principal: Principal, job_id: str) -> "FineTuningJob": ...

    async def cancel(self, principal: Principal, job_id: str) -> "FineTuningJob":
        """End a job and forget its checkpoints; one that runs ends within seconds.

        Raises:
            ConflictError: It has succeeded or failed.
        """
        ...

    async def pause(self, principal: Principal, job_id: str) -> "FineTuningJob":
        """Stop a job at a checkpoint until it is resumed.

        Raises:
            ConflictError: It has ended, was interrupted, is being cancelled, or is trained and being checked.
        """
        ...

    async def resume(self, principal: Principal, job_id: str) -> "FineTuningJob":
        """Queue a job again that was paused, interrupted, or failed and has a checkpoint.

        Raises:
            ConflictError: It cannot go on.
        """
        ...

    async def events(self, principal: Principal, job_id: str, *, limit: int, after: str | None) -> "Page[FineTuningEvent]":
        """Newest first."""
        ...

    def event_stream(
        self, principal: Principal, job_id: str, after: str | None = None
    ) -> "AsyncGenerator[FineTuningEvent, None]":
        """Yield events behind `after`, oldest first, as they come; ends when the job goes on no more by itself.

        Raises:
            OverloadedError: Too many clients follow jobs.
        """
        ...

    async def checkpoints(
        self, principal: Principal, job_id: str, *, limit: int, after: str | None
    ) -> "Page[FineTuningCheckpoint]":
        """Newest first."""
        ...

    async def progress(self, principal: Principal, job_id: str, *, most: int) -> "Sequence[ProgressPoint]":
        """By step; thinned evenly to at most `most`, the last one always among them."""
        ...


class AdapterService(Protocol):
    """Trained adapters. A name that is none raises `InvalidRequestError`; one that the tenant lacks, `NotFoundError`."""

    async def list(self, principal: Principal) -> "Sequence[AdapterReport]":
        """Every version, the newest of each name first."""
        ...

    async def get(self, principal: Principal, adapter_id: str) -> "AdapterReport":
        """The version of an id, or the promoted one of an alias."""
        ...

    async def promote(self, principal: Principal, adapter_id: str, *, force: bool) -> "AdapterReport":
        """Let the alias stand for a version.

        Raises:
            ConflictError: It is worse than what it was compared with, or that is not what is promoted now; not with `force`.
        """
        ...

    async def rollback(self, principal: Principal, adapter_id: str) -> "RollbackReport":
        """Let the alias stand for the version before, or none where there was no other; `adapter_id` is an alias or a version.

        Raises:
            ConflictError: No version is promoted.
        """
        ...

    async def delete(self, principal: Principal, adapter_id: str) -> None:
        """Delete a version; requests under way end well.

        Raises:
            ConflictError: It is promoted.
        """
        ...

    async def merge(self, principal: Principal, adapter_id: str) -> "MergeReport":
        """Write base and adapter as one model, and return when it can be asked.

        Raises:
            ConflictError: It is there already, another model has its name, or the base is gone or quantised.
            OverloadedError: Another merge is running.
            HubError: Memory (`retryable`) or disk have no room for the base once more.
        """
        ...
