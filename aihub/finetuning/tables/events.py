"""What jobs tell on their way: events, progress rows and checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.core.errors import InvalidRequestError
from aihub.core.postgres import Connection, Database

EventLevel = Literal["info", "warn", "error"]
EVENT_PREFIX = "ftevent-"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event of type `message`."""

    message: str
    level: EventLevel = "info"
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event; `number` grows with time."""

    number: int
    level: EventLevel
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any] | None
    created_at: int

    @property
    def id(self) -> str:
        return f"{EVENT_PREFIX}{self.number}"


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    id: str
    step: int
    loss: float | None
    eval_loss: float | None
    created_at: int


@dataclass(frozen=True, slots=True)
class ProgressRecord:
    step: int
    loss: float | None
    eval_loss: float | None
    tokens_per_s: float
    memory_bytes: int
    seconds_left: float
    created_at: int


async def insert_events(connection: Connection, tenant: str, job_id: str, events: Sequence[NewEvent]) -> None:
    """Write down what happened to a job; call it inside the transaction that made it happen."""
    for event in events:
        await connection.execute(
            "INSERT INTO finetuning_events (tenant_id, job_id, level, type, message, data) "
            "VALUES (%s, %s, %s, 'message', %s, %s)",
            (tenant, job_id, event.level, event.message, None if event.data is None else Jsonb(dict(event.data))),
        )


def event_number(event_id: str) -> int:
    """Return the number in an event's id.

    Raises:
        InvalidRequestError: It is no event's id.
    """
    digits = event_id.removeprefix(EVENT_PREFIX)
    if digits == event_id or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        raise InvalidRequestError("'after' names no event of this job.", param="after")
    return int(digits)


class EventTable:
    """Reads `finetuning_events`, `finetuning_progress` and `finetuning_checkpoints`; all scoped by tenant and job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, tenant: str, job_id: str, *, limit: int, before: int | None) -> tuple[list[EventRecord], bool]:
        """Return one page, newest first, of those older than the number `before`, and whether more follow."""
        return await self._page(
            EventRecord,
            """
            SELECT number, level, type, message, data, floor(extract(epoch FROM created_at))::bigint AS created_at
            FROM finetuning_events WHERE tenant_id = %(tenant)s AND job_id = %(job)s AND number < %(before)s
            ORDER BY number DESC LIMIT %(fetch)s
            """,
            {"tenant": tenant, "job": job_id, "before": 2**63 - 1 if before is None else before, "fetch": limit + 1},
        )

    async def following(self, tenant: str, job_id: str, *, limit: int, after: int) -> list[EventRecord]:
        """Return the next ones, oldest first, behind the number `after`."""
        events, _ = await self._page(
            EventRecord,
            """
            SELECT number, level, type, message, data, floor(extract(epoch FROM created_at))::bigint AS created_at
            FROM finetuning_events WHERE tenant_id = %(tenant)s AND job_id = %(job)s AND number > %(after)s
            ORDER BY number LIMIT %(fetch)s
            """,
            {"tenant": tenant, "job": job_id, "after": after, "fetch": limit + 1},
        )
        return events

    async def checkpoints(
        self, tenant: str, job_id: str, *, limit: int, after: str | None
    ) -> tuple[list[CheckpointRecord], bool]:
        """Return one page, newest first, and whether more follow.

        Raises:
            InvalidRequestError: `after` names no checkpoint of the job.
        """
        step = 2**31 - 1
        if after is not None:
            async with self._database.connection() as connection:
                cursor = await connection.execute(
                    "SELECT step FROM finetuning_checkpoints WHERE tenant_id = %s AND job_id = %s AND id = %s",
                    (tenant, job_id, after),
                )
                found = await cursor.fetchone()
            if found is None:
                raise InvalidRequestError("'after' names no checkpoint of this job.", param="after")
            step = found[0]
        return await self._page(
            CheckpointRecord,
            """
            SELECT id, step, loss, eval_loss, floor(extract(epoch FROM created_at))::bigint AS created_at
            FROM finetuning_checkpoints WHERE tenant_id = %(tenant)s AND job_id = %(job)s AND step < %(before)s
            ORDER BY step DESC LIMIT %(fetch)s
            """,
            {"tenant": tenant, "job": job_id, "before": step, "fetch": limit + 1},
        )

    async def progress(self, tenant: str, job_id: str, *, most: int) -> list[ProgressRecord]:
        """Return rows by step: of `most` spans of equal length one each, the last row always, else one with an evaluation."""
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(ProgressRecord))
            await cursor.execute(
                """
                SELECT step, loss, eval_loss, tokens_per_s, memory_bytes, seconds_left, created_at FROM (
                    SELECT DISTINCT ON (span) * FROM (
                        SELECT step, loss, eval_loss, tokens_per_s, memory_bytes, seconds_left,
                            floor(extract(epoch FROM created_at))::bigint AS created_at,
                            (row_number() OVER (ORDER BY step) - 1) * %(most)s / count(*) OVER () AS span,
                            lead(step) OVER (ORDER BY step) IS NULL AS is_last
                        FROM finetuning_progress WHERE tenant_id = %(tenant)s AND job_id = %(job)s
                    ) AS spans ORDER BY span, is_last DESC, eval_loss IS NULL, step DESC
                ) AS thinned ORDER BY step
                """,
                {"tenant": tenant, "job": job_id, "most": most},
            )
            return await cursor.fetchall()

    async def _page(self, kind: type[Any], query: Any, values: Mapping[str, Any]) -> tuple[list[Any], bool]:
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(kind))
            await cursor.execute(query, values)
            rows = await cursor.fetchall()
        limit = values["fetch"] - 1
        return rows[:limit], len(rows) > limit
