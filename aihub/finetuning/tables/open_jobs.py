"""Jobs of all tenants that have not ended, for the scheduler.

Every change names the number of starts that the caller saw, and is refused when another was faster or a process still works on
the job, so any number of schedulers may look at the same time.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.core.errors import HubError
from aihub.core.postgres import Connection, Database
from aihub.finetuning.tables.locked_connection import IS_WORKED_ON
from aihub.finetuning.tables.session import INSERT_EVENT, STOPPED

MOST = 1000
"""Jobs looked at in one round, in the order of the queue."""

_KEY = "tenant_id = %(tenant)s AND id = %(id)s AND attempts = %(attempts)s"
_IS_QUEUED = f"{_KEY} AND status = 'queued'"
_IS_ABANDONED = f"{_KEY} AND status = 'running' AND phase <> 'checking' AND NOT {IS_WORKED_ON}"
_IS_CHECKED = f"{_KEY} AND status = 'running' AND phase = 'checking'"

Succeed = Callable[[str], Awaitable[bool]]
"""Takes the id of the adapter."""

PUBLISH_TIMEOUT_S = 120.0
"""Longest copy of an adapter's files."""

Phase = Literal["waiting", "training", "evaluating", "checking"]


@dataclass(frozen=True, slots=True)
class OpenJob:
    """One queued or running job.

    Attributes:
        number: Its place in the queue: the smallest is first.
        datasets: `{"training": {...}, "validation": {...} | None}`, each a `DatasetReport`.
        wish: What a user asked of the running job, and `wish_age_s` since when.
        need_bytes: What it takes of the device at most.
        attempts: How often its Ray job was started.
        deaths: Starts since it was last queued whose process died.
        quiet_s: Seconds since it was last heard of.
        evaluation: An `EvaluationReport` once it is trained, likewise `metrics`.
    """

    tenant_id: str
    id: str
    number: int
    name: str
    base_model: str
    settings: dict[str, Any]
    datasets: dict[str, Any]
    status: Literal["queued", "running"]
    phase: Phase
    wish: Literal["pause", "cancel"] | None
    wish_age_s: float | None
    wait_reason: str | None
    need_bytes: int
    attempts: int
    deaths: int
    quiet_s: float
    metrics: dict[str, Any] | None
    evaluation: dict[str, Any] | None


class OpenJobTable:
    """The queued and running rows of `finetuning_jobs`. What returns a bool says whether the job was still as it was seen.

    All methods raise `StorageUnavailableError` when PostgreSQL does not answer.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> list[OpenJob]:
        """Return those of all tenants in the order of the queue."""
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(OpenJob))
            await cursor.execute(
                "SELECT tenant_id, id, number, name, base_model, settings, datasets, status, phase, wish, "  # noqa: S608  # constants
                "wait_reason, need_bytes, attempts, deaths, metrics, evaluation, "
                "extract(epoch FROM now() - wish_at)::double precision AS wish_age_s, "
                "extract(epoch FROM now() - coalesce(heartbeat_at, created_at))::double precision AS quiet_s "
                f"FROM finetuning_jobs WHERE status IN ('queued', 'running') ORDER BY number LIMIT {MOST}"
            )
            return await cursor.fetchall()

    async def find_statuses(self, job_ids: Collection[str]) -> dict[str, str]:
        """Return the statuses of those of these jobs that exist."""
        async with self._database.connection() as connection:
            cursor = await connection.execute("SELECT id, status FROM finetuning_jobs WHERE id = ANY(%s)", (sorted(job_ids),))
            return {str(row[0]): str(row[1]) for row in await cursor.fetchall()}

    async def start(self, job: OpenJob) -> bool:
        """Take a job from the queue; whoever gets True submits its Ray job."""
        change = (
            "status = 'running', phase = 'training', attempts = attempts + 1, deaths = 0, heartbeat_at = now(), "
            "started_at = coalesce(started_at, now()), ended_at = NULL, wait_reason = NULL, error = NULL, wish = NULL, "
            "wish_at = NULL"
        )
        told = "The training starts." if job.attempts == 0 else "The training goes on from its last checkpoint."
        return await self._change(job, change, _IS_QUEUED, told)

    async def queue_again(self, job: OpenJob) -> None:
        """Take back a start whose Ray job could not be submitted; `job` is as it was before."""
        change = "status = 'queued', phase = 'waiting', attempts = attempts - 1"
        await self._change(job, change, _IS_ABANDONED, attempts=job.attempts + 1)

    async def restart(self, job: OpenJob) -> bool:
        """Count the death of a job's process; whoever gets True submits it again."""
        change = "attempts = attempts + 1, deaths = deaths + 1, heartbeat_at = now(), phase = 'training'"
        told = f"The process of the training died; start {job.deaths + 2} goes on from the last checkpoint."
        return await self._change(job, change, f"{_IS_ABANDONED} AND wish IS NULL", told, level="warn")

    async def take_back_restart(self, job: OpenJob) -> None:
        """Take back a restart whose Ray job could not be submitted; `job` is as it was before."""
        change = "attempts = attempts - 1, deaths = deaths - 1"
        await self._change(job, change, _IS_ABANDONED, attempts=job.attempts + 1)

    async def interrupt(self, job: OpenJob, message: str) -> bool:
        """Write down that the job's cluster is gone, so that its owner can resume it."""
        change = "status = 'interrupted', phase = 'waiting', seconds_left = NULL, wish = NULL, wish_at = NULL"
        return await self._change(job, change, _IS_ABANDONED, message, level="warn")

    async def stop(self, job: OpenJob) -> bool:
        """Write down that a job which was asked to stop has no process any more: it is paused, or cancelled."""
        is_stopping = f"({_IS_ABANDONED} OR {_IS_CHECKED}) AND wish IS NOT NULL"
        return await self._change(job, STOPPED, is_stopping, "The training has stopped as it was asked to.")

    async def fail(self, job: OpenJob, error: HubError) -> bool:
        """Write down what a job failed with that has no process."""
        change = (
            "status = 'failed', phase = 'waiting', wait_reason = NULL, seconds_left = NULL, wish = NULL, wish_at = NULL, "
            "ended_at = now(), error = %(error)s"
        )
        values = {"error": Jsonb({"code": error.code, "message": error.message, "param": error.param})}
        is_failing = f"({_IS_QUEUED} OR {_IS_ABANDONED} OR {_IS_CHECKED})"
        return await self._change(job, change, is_failing, error.message, level="error", values=values)

    async def wait(self, job: OpenJob, reason: str) -> None:
        """Write down why a job does not go on yet."""
        if job.wait_reason != reason:
            is_waiting = f"({_IS_QUEUED} OR {_IS_CHECKED})"
            await self._change(job, "wait_reason = %(reason)s", is_waiting, values={"reason": reason})

    @asynccontextmanager
    async def publishing(self, job: OpenJob, evaluation: Mapping[str, Any]) -> AsyncIterator[Succeed | None]:
        """Write down how the adapter did, and hold the job: nobody else publishes it or cancels it until this is left.

        Yields:
            What writes down that the job has succeeded, to be awaited inside; None when the job is not wanted any more.
        """
        is_wanted = f"{_IS_CHECKED} AND wish IS DISTINCT FROM 'cancel'"
        async with self._database.transaction(timeout_s=PUBLISH_TIMEOUT_S) as connection:
            values = {"evaluation": Jsonb(dict(evaluation))}
            if not await _change(connection, job, "evaluation = %(evaluation)s, wait_reason = NULL", is_wanted, values=values):
                yield None
                return
            yield partial(_succeed, connection, job)

    async def succeed(self, job: OpenJob, adapter_id: str) -> bool:
        """Write down which adapter the job has made."""
        async with self._database.transaction() as connection:
            return await _succeed(connection, job, adapter_id)

    async def _change(self, *args: Any, **options: Any) -> bool:
        async with self._database.transaction() as connection:
            return await _change(connection, *args, **options)


async def _succeed(connection: Connection, job: OpenJob, adapter_id: str) -> bool:
    change = (
        "status = 'succeeded', phase = 'waiting', adapter_id = %(adapter_id)s, ended_at = now(), wait_reason = NULL, "
        "wish = NULL, wish_at = NULL"
    )
    message = f"The adapter is published as {adapter_id}."
    return await _change(connection, job, change, _IS_CHECKED, message, values={"adapter_id": adapter_id})


async def _change(
    connection: Connection,
    job: OpenJob,
    change: str,
    condition: str,
    event: str | None = None,
    *,
    level: Literal["info", "warn", "error"] = "info",
    attempts: int | None = None,
    values: Mapping[str, Any] | None = None,
) -> bool:
    """Change the row and add an event where the row is as it was seen."""
    key = {"tenant": job.tenant_id, "id": job.id, "attempts": job.attempts if attempts is None else attempts}
    cursor = await connection.execute(
        f"UPDATE finetuning_jobs SET {change} WHERE {condition}",  # noqa: S608 - constants
        key | dict(values or {}),
    )
    if cursor.rowcount == 1 and event is not None:
        await connection.execute(INSERT_EVENT, key | {"level": level, "type": "message", "message": event, "data": None})
    return cursor.rowcount == 1
