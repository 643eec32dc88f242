"""`finetuning_jobs` as the API sees it: new jobs, pages of them, and what a client asks of one."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.core.errors import InvalidRequestError, NotFoundError, RateLimitError
from aihub.core.postgres import Connection, Database
from aihub.finetuning.schemas import JobPhase, JobStatus
from aihub.finetuning.tables.events import NewEvent, insert_events

RESTING: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled", "paused", "interrupted"})
"""A job goes on from here only when somebody asks for it."""

MOST_OPEN = 100
"""Queued and running jobs of a tenant; each keeps a copy of its data."""

_COLUMNS: LiteralString = """
    job.tenant_id, job.id, job.name, job.base_model, job.settings, job.training_file, job.validation_file,
    job.request->'metadata' AS metadata, job.request_sha256, job.datasets, job.status, job.phase, job.wish, job.wait_reason,
    job.attempts, job.step, job.steps, job.seconds_left, job.trained_tokens, job.metrics, job.evaluation, job.adapter_id,
    job.error,
    floor(extract(epoch FROM job.created_at))::bigint AS created_at,
    floor(extract(epoch FROM job.started_at))::bigint AS started_at,
    floor(extract(epoch FROM job.ended_at))::bigint AS ended_at,
    CASE WHEN job.status = 'queued' THEN (
        SELECT count(*) + 1 FROM finetuning_jobs AS earlier WHERE earlier.status = 'queued' AND earlier.number < job.number
    ) END AS queue_position,
    last.loss, last.tokens_per_s, last.memory_bytes,
    (
        SELECT eval_loss FROM finetuning_progress AS row
        WHERE row.tenant_id = job.tenant_id AND row.job_id = job.id AND eval_loss IS NOT NULL ORDER BY step DESC LIMIT 1
    ) AS eval_loss
"""
_SELECT: LiteralString = f"""
    SELECT {_COLUMNS} FROM finetuning_jobs AS job LEFT JOIN LATERAL (
        SELECT loss, tokens_per_s, memory_bytes FROM finetuning_progress AS row
        WHERE row.tenant_id = job.tenant_id AND row.job_id = job.id ORDER BY step DESC LIMIT 1
    ) AS last ON true
"""  # noqa: S608  # constants


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job; times as Unix seconds. The columns are told in `JobDetails` and `FineTuningJob`.

    Attributes:
        metadata: As the client sent it; None without any.
        queue_position: Jobs of all tenants that are queued before it, and 1; None unless queued.
        loss, eval_loss, tokens_per_s, memory_bytes: Of the last progress row that has them.
    """

    tenant_id: str
    id: str
    name: str
    base_model: str
    settings: dict[str, Any]
    training_file: str
    validation_file: str | None
    metadata: dict[str, str] | None
    request_sha256: str
    datasets: dict[str, Any]
    status: JobStatus
    phase: JobPhase
    wish: Literal["cancel", "pause"] | None
    wait_reason: str | None
    attempts: int
    step: int
    steps: int | None
    seconds_left: float | None
    trained_tokens: int | None
    metrics: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    adapter_id: str | None
    error: dict[str, Any] | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    queue_position: int | None
    loss: float | None
    tokens_per_s: float | None
    memory_bytes: int | None
    eval_loss: float | None


@dataclass(frozen=True, slots=True)
class NewJob:
    """An accepted job.

    Attributes:
        request: As it came, as JSON values.
        request_sha256: Of it; tells requests with one idempotency key apart.
        need_bytes: Memory of the device that the training takes.
    """

    id: str
    name: str
    base_model: str
    settings: Mapping[str, Any]
    training_file: str
    validation_file: str | None
    request: Mapping[str, Any]
    request_sha256: str
    idempotency_key: str | None
    datasets: Mapping[str, Any]
    need_bytes: int


def new_job_id() -> str:
    """Return an id no other job has."""
    return f"ftjob-{secrets.token_hex(12)}"


class JobTable:
    """Jobs; every call but `find_ids` is scoped by tenant. All raise `StorageUnavailableError` while PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, tenant: str, job: NewJob, events: list[NewEvent]) -> bool:
        """Queue a job; False when another one has its idempotency key.

        Raises:
            RateLimitError: The tenant has `MOST_OPEN` jobs that are queued or running.
        """
        columns = {name: getattr(job, name) for name in job.__slots__}
        values = columns | {name: Jsonb(dict(columns[name])) for name in ("settings", "request", "datasets")} | {"tenant": tenant}
        async with self._database.transaction() as connection:
            # Of submissions at the same time each counts those before it.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"aihub-finetuning:{tenant}",))
            cursor = await connection.execute(
                """
                INSERT INTO finetuning_jobs (tenant_id, id, name, base_model, settings, training_file, validation_file, request,
                    request_sha256, idempotency_key, datasets, status, need_bytes)
                VALUES (%(tenant)s, %(id)s, %(name)s, %(base_model)s, %(settings)s, %(training_file)s, %(validation_file)s,
                    %(request)s, %(request_sha256)s, %(idempotency_key)s, %(datasets)s, 'queued', %(need_bytes)s)
                ON CONFLICT (tenant_id, idempotency_key) DO NOTHING
                """,
                values,
            )
            if cursor.rowcount == 0:
                return False
            if await _count_open(connection, tenant) > MOST_OPEN:
                raise too_many_open()
            await insert_events(connection, tenant, job.id, events)
        return True

    async def require_place(self, tenant: str) -> None:
        """Check that one more job may be queued; `insert` decides.

        Raises:
            RateLimitError: The tenant has `MOST_OPEN` jobs that are queued or running.
        """
        async with self._database.connection() as connection:
            if await _count_open(connection, tenant) >= MOST_OPEN:
                raise too_many_open()

    async def find_by_key(self, tenant: str, idempotency_key: str) -> JobRecord | None:
        """Return the job that was created with this key."""
        async with self._database.connection() as connection:
            return await _read(
                connection, _SELECT + " WHERE job.tenant_id = %s AND job.idempotency_key = %s", (tenant, idempotency_key)
            )

    async def get(self, tenant: str, job_id: str) -> JobRecord:
        """Return one job.

        Raises:
            NotFoundError: There is none of this id.
        """
        async with self._database.connection() as connection:
            found = await _read(connection, _SELECT + " WHERE job.tenant_id = %s AND job.id = %s", (tenant, job_id))
        if found is None:
            raise no_such_job(job_id)
        return found

    async def list(
        self,
        tenant: str,
        *,
        limit: int,
        after: str | None,
        metadata: Mapping[str, str] | None,
        without_metadata: bool,
    ) -> tuple[list[JobRecord], bool]:
        """Return one page, newest first, and whether more follow.

        Raises:
            InvalidRequestError: `after` names no job.
        """
        async with self._database.connection() as connection:
            position = 2**63 - 1
            if after is not None:
                cursor = await connection.execute(
                    "SELECT number FROM finetuning_jobs WHERE tenant_id = %s AND id = %s", (tenant, after)
                )
                if (found := await cursor.fetchone()) is None:
                    raise InvalidRequestError(f"'after' names no job: {after!r}.", param="after")
                position = found[0]
            rows = connection.cursor(row_factory=class_row(JobRecord))
            await rows.execute(
                _SELECT
                + """
                WHERE job.tenant_id = %(tenant)s AND job.number < %(position)s
                AND (%(metadata)s::jsonb IS NULL OR job.request->'metadata' @> %(metadata)s::jsonb)
                AND (NOT %(without)s OR coalesce(jsonb_typeof(job.request->'metadata'), 'null') = 'null')
                ORDER BY job.number DESC LIMIT %(fetch)s
                """,
                {
                    "tenant": tenant,
                    "position": position,
                    "metadata": Jsonb(dict(metadata)) if metadata else None,
                    "without": without_metadata,
                    "fetch": limit + 1,
                },
            )
            jobs = await rows.fetchall()
        return jobs[:limit], len(jobs) > limit

    async def find_ids(self) -> set[str]:
        """Return the ids of all jobs of all tenants."""
        async with self._database.connection() as connection:
            cursor = await connection.execute("SELECT id FROM finetuning_jobs")
            return {job_id for (job_id,) in await cursor.fetchall()}


def no_such_job(job_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no job {job_id[:64]!r}. GET /v1/fine_tuning/jobs lists them.", param="job_id", code="job_not_found"
    )


def too_many_open() -> RateLimitError:
    return RateLimitError(
        f"{MOST_OPEN} jobs are queued or running already, and no more may be. Send this one when one has ended, or cancel one.",
        code="too_many_open_jobs",
        retry_after_s=60,
    )


async def _count_open(connection: Connection, tenant: str) -> int:
    cursor = await connection.execute(
        "SELECT count(*) FROM finetuning_jobs WHERE tenant_id = %s AND status IN ('queued', 'running')", (tenant,)
    )
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101  # count(*) always gives a row
    return int(row[0])


async def _read(connection: Connection, query: LiteralString, values: tuple[str, str]) -> JobRecord | None:
    cursor = connection.cursor(row_factory=class_row(JobRecord))
    await cursor.execute(query, values)
    return await cursor.fetchone()
