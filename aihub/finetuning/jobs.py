"""Fine-tuning jobs behind the API: accepted, shown, and asked to stop or go on. Others run them."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from aihub.core.concurrency import run_to_end
from aihub.core.errors import ConflictError, InternalError, OverloadedError, RateLimitError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.schemas import Page
from aihub.documents.service import FileService
from aihub.finetuning.acceptance import Acceptance, Estimate
from aihub.finetuning.bases import FindBase, NameBases
from aihub.finetuning.datasets.checking import DatasetChecker
from aihub.finetuning.event_stream import follow_events
from aihub.finetuning.job_data import ABANDONED_S, JobData, find_folders, has_work, remove_folder, remove_work
from aihub.finetuning.job_folder import JobFolder
from aihub.finetuning.ollama_models import load_ollama_models
from aihub.finetuning.schemas import FineTuningCheckpoint, FineTuningEvent, FineTuningJob, FineTuningRequest, ProgressPoint
from aihub.finetuning.serializers import checkpoint_object, event_object, job_object, page, progress_point
from aihub.finetuning.tables.events import EventTable, event_number
from aihub.finetuning.tables.jobs import JobRecord, JobTable, NewJob, new_job_id
from aihub.finetuning.tables.wishes import Decide, WishTable, decide_cancel, decide_pause, decide_resume

MAX_STREAMS = 64
"""Clients that follow events at a time; each asks the database every second and holds one of this process's calls."""


def no_names() -> Sequence[str]:
    """A `NameBases` of a hub without models."""
    return ()


class FineTuningJobs:
    """Implements `aihub.finetuning.service.FineTuningService`.

    Args:
        database: Open.
        home: The state folder.
        files: Uploaded files.
        find_base: Finds a local chat model by id or key.
        name_bases: Ids of all of them, for messages.
        max_rank: Of an adapter that the engine serves.
        estimate: Memory of the device that a training takes. Blocking.
        nudge: Tells the scheduler that something has changed; must not block.
        checker: Checks data files.
    """

    def __init__(
        self,
        *,
        database: Database,
        home: Path,
        files: FileService,
        find_base: FindBase,
        name_bases: NameBases = no_names,
        max_rank: int,
        estimate: Estimate,
        nudge: Callable[[], None],
        checker: DatasetChecker | None = None,
    ) -> None:
        self._jobs = JobTable(database)
        self._events = EventTable(database)
        self._wishes = WishTable(database)
        self._home = home
        self._nudge = nudge
        self._acceptance = Acceptance(
            data=JobData(files, home),
            checker=checker or DatasetChecker(),
            find_base=find_base,
            name_bases=name_bases,
            ollama_models=load_ollama_models(),
            max_rank=max_rank,
            estimate=estimate,
        )
        self._streams = 0
        self._keys: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def remove_leftovers(self) -> None:
        """Remove folders of jobs whose acceptance was cut off.

        Those of the last hour stay: another process, or this one, may be accepting their jobs.
        """
        folders = await run_to_end(find_folders, self._home, older_than_s=ABANDONED_S)
        for job_id in folders - await self._jobs.find_ids():
            await run_to_end(remove_folder, JobFolder.of(self._home, job_id))

    async def create(self, principal: Principal, request: FineTuningRequest, idempotency_key: str | None = None) -> FineTuningJob:
        """Check the model and the data, and queue the job; see `FineTuningService.create`."""
        sha256 = request_sha256(request)
        if idempotency_key is None:
            return await self._create(principal, request, sha256, None)
        key = (principal.tenant_id, idempotency_key)
        # Of requests at the same time, one copies and checks the data. The unique index decides all the same.
        lock = self._keys.setdefault(key, asyncio.Lock())
        async with lock:
            if (found := await self._jobs.find_by_key(*key)) is not None:
                return job_object(_same(found, sha256))
            return await self._create(principal, request, sha256, idempotency_key)

    async def list(
        self,
        principal: Principal,
        *,
        limit: int,
        after: str | None = None,
        metadata: Mapping[str, str] | None = None,
        without_metadata: bool = False,
    ) -> Page[FineTuningJob]:
        """Return one page, newest first."""
        jobs, has_more = await self._jobs.list(
            principal.tenant_id, limit=limit, after=after, metadata=metadata, without_metadata=without_metadata
        )
        return page([job_object(job) for job in jobs], has_more)

    async def get(self, principal: Principal, job_id: str) -> FineTuningJob:
        return job_object(await self._jobs.get(principal.tenant_id, job_id))

    async def cancel(self, principal: Principal, job_id: str) -> FineTuningJob:
        """End a job; see `FineTuningService.cancel`."""
        return await self._wish(principal, job_id, decide_cancel, removes_work=True)

    async def pause(self, principal: Principal, job_id: str) -> FineTuningJob:
        """Stop a job at a checkpoint; see `FineTuningService.pause`."""
        return await self._wish(principal, job_id, decide_pause)

    async def resume(self, principal: Principal, job_id: str) -> FineTuningJob:
        """Queue a job again; see `FineTuningService.resume`."""
        can_go_on = await run_to_end(has_work, JobFolder.of(self._home, job_id))
        return await self._wish(principal, job_id, decide_resume, has_work=can_go_on)

    async def events(self, principal: Principal, job_id: str, *, limit: int, after: str | None) -> Page[FineTuningEvent]:
        """Return one page, newest first."""
        await self._jobs.get(principal.tenant_id, job_id)
        before = None if after is None else event_number(after)
        events, has_more = await self._events.newest(principal.tenant_id, job_id, limit=limit, before=before)
        return page([event_object(event) for event in events], has_more)

    async def event_stream(
        self, principal: Principal, job_id: str, after: str | None = None
    ) -> AsyncGenerator[FineTuningEvent, None]:
        """Yield events as they come; see `FineTuningService.event_stream`."""
        start = 0 if after is None else event_number(after)
        if self._streams >= MAX_STREAMS:
            raise OverloadedError("Too many clients follow trainings. Ask for the job again and again instead.", retry_after_s=30)
        self._streams += 1
        try:
            async with aclosing(follow_events(self._jobs, self._events, principal.tenant_id, job_id, after=start)) as events:
                async for event in events:
                    yield event_object(event)
        finally:
            self._streams -= 1

    async def checkpoints(
        self, principal: Principal, job_id: str, *, limit: int, after: str | None
    ) -> Page[FineTuningCheckpoint]:
        """Return one page, newest first."""
        job = await self._jobs.get(principal.tenant_id, job_id)
        rows, has_more = await self._events.checkpoints(principal.tenant_id, job_id, limit=limit, after=after)
        return page([checkpoint_object(job, row) for row in rows], has_more)

    async def progress(self, principal: Principal, job_id: str, *, most: int) -> Sequence[ProgressPoint]:
        """Return rows by step; see `FineTuningService.progress`."""
        await self._jobs.get(principal.tenant_id, job_id)
        return [progress_point(row) for row in await self._events.progress(principal.tenant_id, job_id, most=most)]

    async def _create(
        self, principal: Principal, request: FineTuningRequest, sha256: str, idempotency_key: str | None
    ) -> FineTuningJob:
        job_id, tenant = new_job_id(), principal.tenant_id
        await self._jobs.require_place(tenant)
        folder = JobFolder.of(self._home, job_id)
        is_kept = False
        try:
            accepted = await self._acceptance.accept(principal, request, folder)
            job = NewJob(
                id=job_id,
                name=request.name or f"job-{job_id.rpartition('-')[2][:8]}",
                base_model=accepted.base_model,
                settings=accepted.settings.model_dump(mode="json"),
                training_file=accepted.training_file,
                validation_file=accepted.validation_file,
                request=request.model_dump(mode="json"),
                request_sha256=sha256,
                idempotency_key=idempotency_key,
                datasets=accepted.datasets,
                need_bytes=accepted.need_bytes,
            )
            insertion = asyncio.ensure_future(self._jobs.insert(tenant, job, accepted.events()))
            try:
                await _settle(insertion)
            finally:
                # Of one that PostgreSQL did not answer nobody knows; its files go at a later start if it did not happen.
                error = insertion.exception()
                is_kept = insertion.result() if error is None else not isinstance(error, RateLimitError)
            insertion.result()
        finally:
            if not is_kept:
                await run_to_end(remove_folder, folder)
        if is_kept:
            self._nudge()
            return await self.get(principal, job_id)
        found = await self._jobs.find_by_key(tenant, idempotency_key or "")
        if found is None:
            raise InternalError("A job was refused for its key, and no job has it.")
        return job_object(_same(found, sha256))

    async def _wish(
        self, principal: Principal, job_id: str, decide: Decide, *, has_work: bool = False, removes_work: bool = False
    ) -> FineTuningJob:
        change = await self._wishes.apply(principal.tenant_id, job_id, decide, has_work=has_work)
        if change is not None:
            if removes_work and change.was_idle:
                await run_to_end(remove_work, JobFolder.of(self._home, job_id))
            self._nudge()
        return await self.get(principal, job_id)


def request_sha256(request: FineTuningRequest) -> str:
    """Return a hash that is the same for requests that ask for the same."""
    text = json.dumps(request.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _same(found: JobRecord, sha256: str) -> JobRecord:
    if found.request_sha256 != sha256:
        raise ConflictError(
            f"This Idempotency-Key belongs to the job {found.id}, which asks for something else. Send another key.",
            param="idempotency-key",
            code="idempotency_conflict",
        )
    return found


async def _settle(task: "asyncio.Future[Any]") -> None:
    """Wait for a task; a cancelled caller is held until it has ended.

    Raises:
        asyncio.CancelledError: The caller was cancelled.
    """
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
