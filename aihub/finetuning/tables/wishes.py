"""What a client asks of a job that exists: cancel, pause, resume. Each is decided under the row's lock, with its event."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

from aihub.core.errors import ConflictError
from aihub.core.postgres import Database
from aihub.finetuning.tables.events import NewEvent, insert_events
from aihub.finetuning.tables.jobs import no_such_job


@dataclass(frozen=True, slots=True)
class JobState:
    """What decides on a wish.

    Attributes:
        has_work: The job's checkpoints are on the disk.
    """

    status: str
    phase: str
    wish: str | None
    has_work: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a job's row.

    Attributes:
        assignments: Of an UPDATE.
        event: What is told.
        was_idle: No process worked on it, so that its files are the caller's to remove.
    """

    assignments: LiteralString
    event: NewEvent
    was_idle: bool = True


Decide = Callable[[str, JobState], Change | None]
"""Takes the job's id and state; None leaves it as it is. Raises `ConflictError`."""

_WISH: LiteralString = "wish_at = now(), wish = "
_AT_ONCE: LiteralString = "wish = NULL, wish_at = NULL, wait_reason = NULL, seconds_left = NULL, "


def decide_cancel(job_id: str, job: JobState) -> Change | None:
    if job.status == "cancelled" or (job.status == "running" and job.wish == "cancel"):
        return None
    if job.status == "running":
        return Change(_WISH + "'cancel'", NewEvent("The job was asked to stop; it ends within seconds."), was_idle=False)
    if job.status in {"queued", "paused", "interrupted"}:
        return Change(_AT_ONCE + "status = 'cancelled', ended_at = now()", NewEvent("The job was cancelled."))
    raise _refuse(job_id, job.status, "cannot be cancelled any more")


def decide_pause(job_id: str, job: JobState) -> Change | None:
    if job.status == "paused" or (job.status == "running" and job.wish == "pause"):
        return None
    if job.status == "queued":
        return Change(_AT_ONCE + "status = 'paused'", NewEvent("The job was paused."))
    if job.status == "running" and job.phase == "checking" and job.wish is None:
        raise ConflictError(
            f"The job {job_id} is trained, and its adapter is being checked: there is nothing left to pause.",
            param="job_id",
            code="invalid_job_state",
        )
    if job.status == "running" and job.wish is None:
        return Change(_WISH + "'pause'", NewEvent("The job was asked to pause; it writes a checkpoint first."), was_idle=False)
    if job.status == "running":
        raise ConflictError(f"The job {job_id} is being cancelled.", param="job_id", code="invalid_job_state")
    raise _refuse(job_id, job.status, "cannot be paused")


def decide_resume(job_id: str, job: JobState) -> Change | None:
    if job.status == "queued" or (job.status == "running" and job.wish is None):
        return None
    if job.status == "running":
        raise ConflictError(
            f"The job {job_id} is still running and was asked to {job.wish}. Try again when GET shows it at rest.",
            param="job_id",
            code="invalid_job_state",
        )
    if job.status in {"paused", "interrupted"} or (job.status == "failed" and job.has_work):
        change: LiteralString = "status = 'queued', phase = 'waiting', error = NULL, heartbeat_at = NULL, ended_at = NULL"
        return Change(_AT_ONCE + change, NewEvent("The job was resumed and is queued."))
    reason = "has no checkpoint to go on from. Start a new job" if job.status == "failed" else "cannot be resumed"
    raise _refuse(job_id, job.status, reason)


class WishTable:
    """Changes rows of `finetuning_jobs` as a client asked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(self, tenant: str, job_id: str, decide: Decide, *, has_work: bool = False) -> Change | None:
        """Change a job under its row's lock; None when it stays as it is.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: Its state forbids it.
        """
        async with self._database.transaction() as connection:
            cursor = await connection.execute(
                "SELECT status, phase, wish FROM finetuning_jobs WHERE tenant_id = %s AND id = %s FOR NO KEY UPDATE",
                (tenant, job_id),
            )
            found: tuple[Any, ...] | None = await cursor.fetchone()
            if found is None:
                raise no_such_job(job_id)
            change = decide(job_id, JobState(found[0], found[1], found[2], has_work))
            if change is not None:
                await connection.execute(
                    f"UPDATE finetuning_jobs SET {change.assignments} WHERE tenant_id = %s AND id = %s",  # noqa: S608  # constants
                    (tenant, job_id),
                )
                await insert_events(connection, tenant, job_id, [change.event])
            return change


def _refuse(job_id: str, status: str, what: str) -> ConflictError:
    # "interrupted" and "cancelled" name the state, too.
    return ConflictError(f"The job {job_id} is {status} and {what}.", param="job_id", code="invalid_job_state")
