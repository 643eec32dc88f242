"""Jobs from the queue to their end: room in memory, the Ray job that trains, and what becomes of it.

Everything is read from the table at each look, so a restart of the hub, or of the whole machine, loses nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from aihub.core.concurrency import raise_if_cancelled
from aihub.core.errors import HubError, InternalError, NotFoundError
from aihub.core.job_server import Jobs, JobServerError
from aihub.finetuning.checks import PublicationChecks
from aihub.finetuning.tables.open_jobs import OpenJob, OpenJobTable
from aihub.finetuning.training_settings import TrainingSettings

logger = logging.getLogger(__name__)

PERIOD_S = 2.0
IDLE_PERIOD_S = 30.0
"""Without a job; a new one is told of by `nudge`."""
PAUSE_S = 10.0
"""After a look that failed, such as while PostgreSQL is away."""
QUIET_S = 6.0
"""Only of a job that was not heard of for so long the Ray job is looked at."""
UNKNOWN_S = 20.0
"""A Ray job nobody knows may be about to be submitted; after so long a silence its cluster is gone."""
STOP_PATIENCE_S = 15.0
"""After which a training that was asked to stop is ended from outside."""
MOST_STARTS = 3
CHECKED_FIRST_S = 900.0
"""How long the next training waits for the check of an adapter: the base model may need the room that it would take."""


class Base(Protocol):
    """A model that can be trained."""

    @property
    def folder(self) -> Path: ...

    @property
    def digest(self) -> str: ...


class Room(Protocol):
    """What trainings may take of the device's memory; see `aihub.models.memory.room`."""

    async def take(self, holder: str, size_bytes: int, *, may_drain: bool) -> str | None:
        """Take room, or return one sentence why there is none yet. Every `take` is followed by a `release` in the end."""
        ...

    async def release(self, holder: str) -> None: ...

    def adopt(self, holder: str, size_bytes: int) -> None:
        """Enter a training that runs already."""

    def holders(self) -> set[str]: ...

    def refuse_impossible(self, size_bytes: int) -> None:
        """Raise `HubError` for what does not fit, whatever is unloaded."""


@dataclass(frozen=True, slots=True)
class SchedulerParts:
    """What the scheduler works with.

    Attributes:
        find_base: By the id of the model; None where it is not installed any more.
        clean: Removes what ended jobs have left on the disk.
    """

    table: OpenJobTable
    jobs: Jobs
    room: Room
    checks: PublicationChecks
    find_base: Callable[[str], Base | None]
    clean: Callable[[], Awaitable[None]]


class FineTuningScheduler:
    """One per process that serves jobs. Any number may look at the same table; the room is each process's own."""

    def __init__(self, parts: SchedulerParts, settings: TrainingSettings) -> None:
        self._table, self._jobs, self._room, self._checks = parts.table, parts.jobs, parts.room, parts.checks
        self._find_base, self._clean = parts.find_base, parts.clean
        self._settings = settings
        self._nudged = asyncio.Event()
        self._holders: set[str] = set()
        self._open: set[str] | None = None

    def nudge(self) -> None:
        """Look now: something about a job has changed."""
        self._nudged.set()

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            raise_if_cancelled()
            self._nudged.clear()
            try:
                has_jobs = await self.look()
                pause_s = PERIOD_S if has_jobs else IDLE_PERIOD_S
            except (HubError, JobServerError) as error:
                logger.warning("Fine-tuning jobs are looked after later: %s", error)
                pause_s = PAUSE_S
            except Exception:
                logger.exception("Fine-tuning jobs are looked after later")
                pause_s = PAUSE_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._nudged.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Let go of what is under way; trainings go on, and whoever looks next publishes what was being checked."""
        await self._checks.close()

    async def look(self) -> bool:
        """Do one round; False when there is no job.

        Raises:
            HubError: PostgreSQL does not answer.
            JobServerError: Nor does the job server, which the queue needs.
        """
        jobs = await self._table.list()
        await self._release(jobs)
        for job in jobs:
            if job.status == "running":
                try:
                    await self._look_at(job)
                except JobServerError as error:
                    logger.warning("The job %s is looked after later: %s", job.id, error)
        await self._start_next(jobs)
        await self._clean_up({job.id for job in jobs})
        return bool(jobs)

    async def _release(self, jobs: list[OpenJob]) -> None:
        """Give back the room of trainings that have ended, or do not wait any more."""
        wanted = {holder_of(job) for job in jobs if job.phase != "checking"}
        ours = {holder for holder in self._room.holders() if holder.startswith(HOLDER)} | self._holders
        for holder in sorted(ours - wanted):
            await self._room.release(holder)
            self._holders.discard(holder)

    async def _clean_up(self, open_ids: set[str]) -> None:
        if self._open is None or self._open - open_ids:
            await self._clean()
        self._open = open_ids

    async def _look_at(self, job: OpenJob) -> None:
        if job.phase == "checking":
            base = self._find_base(job.base_model)
            if base is None:
                await self._table.fail(job, base_model_gone(job))
            else:
                await self._checks.look_at(job, base.digest, self.nudge)
            return
        is_known = holder_of(job) in self._holders
        if is_known and job.quiet_s <= QUIET_S and job.wish is None:
            return
        state = await asyncio.to_thread(self._jobs.state, job.id, job.attempts)
        if state == "alive":
            if not is_known:  # this process is younger than the training
                self._room.adopt(holder_of(job), job.need_bytes)
                self._holders.add(holder_of(job))
            if job.wish is not None and (job.wish_age_s or 0.0) > STOP_PATIENCE_S:
                logger.warning("The job %s did not stop when asked; its processes are ended.", job.id)
                await asyncio.to_thread(self._jobs.stop, job.id, job.attempts)
        elif state == "unknown" and job.quiet_s < UNKNOWN_S:
            return
        elif job.wish is not None:
            await self._table.stop(job)
        elif state == "ended":
            await self._start_again(job)
        else:
            by_whom = "Its Ray job was stopped by hand" if state == "stopped" else "The cluster it ran on is gone"
            await self._table.interrupt(job, f"{by_whom}. Resume the job to go on from its last checkpoint.")

    async def _start_again(self, job: OpenJob) -> None:
        base = self._find_base(job.base_model)
        if base is None:
            await self._table.fail(job, base_model_gone(job))
        elif job.deaths + 1 >= MOST_STARTS:
            logger.error("The job %s died %d times; it is given up.", job.id, job.deaths + 1)
            await self._table.fail(job, job_died(job))
        elif await self._table.restart(job):
            logger.warning("The process of the job %s died; start %d of %d.", job.id, job.deaths + 2, MOST_STARTS)
            await self._submit(job, base, lambda: self._table.take_back_restart(job))

    async def _start_next(self, jobs: list[OpenJob]) -> None:
        """Start the first of the queue where it may; those behind it wait for it."""
        training = [job for job in jobs if job.status == "running" and job.phase != "checking"]
        for job in jobs:
            if job.status != "queued":
                continue
            if len(training) >= self._settings.at_once:
                names = ", ".join(other.id for other in training)
                await self._table.wait(job, f"{names} {'is' if len(training) == 1 else 'are'} being trained.")
                return
            if (checked := _find_checked_first(jobs)) is not None:
                await self._table.wait(job, f"The adapter of {checked.id} is checked first.")
                return
            outcome = await self._start(job)
            if outcome == "waits":
                return
            if outcome == "started":
                training.append(job)

    async def _start(self, job: OpenJob) -> Literal["started", "waits", "ended"]:
        base = self._find_base(job.base_model)
        if base is None:
            await self._table.fail(job, base_model_gone(job))
            return "ended"
        try:
            self._room.refuse_impossible(job.need_bytes)
        except HubError as error:
            await self._table.fail(job, error)
            return "ended"
        holder = holder_of(job)
        self._holders.add(holder)
        may_drain = self._settings.priority == "training"
        if (reason := await self._room.take(holder, job.need_bytes, may_drain=may_drain)) is not None:
            await self._table.wait(job, reason)
            return "waits"
        if not await self._table.start(job):
            return "ended"
        await self._submit(job, base, lambda: self._table.queue_again(job))
        logger.info("The job %s is being trained.", job.id)
        return "started"

    async def _submit(self, job: OpenJob, base: Base, take_back: Callable[[], Awaitable[None]]) -> None:
        """Submit the next start of a job.

        Raises:
            JobServerError: The job server does not take it; the start does not count then.
        """
        attempt = job.attempts + 1
        command = ["training.finetune", "--job-id", job.id, "--tenant", job.tenant_id, "--attempt", str(attempt)]
        command += ["--base-folder", str(base.folder), "--workers", str(self._settings.workers)]
        metadata = {"kind": "fine-tuning", "base_model": job.base_model}
        try:
            await asyncio.to_thread(self._jobs.submit, command, job.id, attempt, metadata=metadata)
        except JobServerError:
            # The refusal may have come for a job that was taken, its first answer being lost: such a start counts.
            if await asyncio.to_thread(self._jobs.state, job.id, attempt) == "unknown":
                await take_back()
            raise


HOLDER = "training "
"""Before a job's id in the name of who holds room."""


def holder_of(job: OpenJob) -> str:
    return HOLDER + job.id


def _find_checked_first(jobs: list[OpenJob]) -> OpenJob | None:
    """Return a job whose adapter is checked, but for one whose base model has not answered for long."""
    # Nothing is written of a job between its training's end and its own.
    return next((job for job in jobs if job.phase == "checking" and job.quiet_s <= CHECKED_FIRST_S), None)


def base_model_gone(job: OpenJob) -> NotFoundError:
    return NotFoundError(
        f"The model {job.base_model!r} is not installed any more. Install it again, then resume the job or start a new one.",
        param="model",
        code="base_model_gone",
    )


def job_died(job: OpenJob) -> InternalError:
    return InternalError(
        f"The process of the training died {job.deaths + 1} times. The log of its Ray job {job.id} says why; "
        "resume it to go on from the last checkpoint.",
        code="training_died",
    )
