"""Trainings that have not ended, of all tenants: who watches them may start one's job again, or end it.

Every change names the number of starts the caller saw and is refused when another was faster or a process still works on the
training, so any number of watchers may look at the same time.
"""

from dataclasses import dataclass
from typing import Any, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.core.postgres import Database
from aihub.recsys.tables.runs import HEARD_OF_AT, IS_OPEN, IS_WORKED_ON

_IS_STILL_SO = f"tenant_id = %(tenant)s AND id = %(id)s AND attempts = %(attempts)s AND {IS_OPEN} AND NOT {IS_WORKED_ON}"
MOST = 1000
"""Rows looked at in one round, the oldest first."""


@dataclass(frozen=True, slots=True)
class OpenRun:
    """One training with a job.

    Attributes:
        attempts: How often its job was started.
        quiet_s: Seconds since it was last heard of.
    """

    tenant_id: str
    id: str
    store_id: int
    model_type: str
    hyper_parameters: dict[str, Any]
    cancel_requested: bool
    attempts: int
    quiet_s: float


class OpenRunTable:
    """The open rows of `ai_training_log` that have a job."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self) -> list[OpenRun]:
        """Return those of all tenants."""
        async with self._database.connection() as connection:
            cursor = connection.cursor(row_factory=class_row(OpenRun))
            await cursor.execute(
                "SELECT tenant_id, id, store_id, model_type, hyper_parameters, cancel_requested, attempts, "  # noqa: S608  # constants
                f"extract(epoch FROM now() - {HEARD_OF_AT})::double precision AS quiet_s "
                f"FROM ai_training_log WHERE {IS_OPEN} AND attempts > 0 ORDER BY created_at LIMIT {MOST}"
            )
            return await cursor.fetchall()

    async def claim(self, run: OpenRun) -> bool:
        """Count one more start; whoever gets True starts the job."""
        return await self._change(
            run, "attempts = attempts + 1, step = 'resuming', progress = 0, heartbeat_at = now()", "NOT cancel_requested"
        )

    async def give_back(self, run: OpenRun) -> None:
        """Take back a claim whose job could not be started; `run` is as it was before the claim."""
        async with self._database.connection() as connection:
            await connection.execute(
                f"UPDATE ai_training_log SET attempts = attempts - 1 WHERE {_IS_STILL_SO}",  # noqa: S608 - constants
                {"tenant": run.tenant_id, "id": run.id, "attempts": run.attempts + 1},
            )

    async def end(self, run: OpenRun, status: Literal["failed", "cancelled"], *, code: str, message: str) -> bool:
        """Write down that it does not go on; False when that is not so any more."""
        change = "status = %(status)s, ended_at = now(), message = %(message)s, error = %(error)s"
        error = Jsonb({"code": code, "message": message})
        return await self._change(run, change, "true", status=status, message=message, error=error)

    async def _change(self, run: OpenRun, change: str, condition: str, **values: Any) -> bool:
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                f"UPDATE ai_training_log SET {change} WHERE {_IS_STILL_SO} AND {condition}",  # noqa: S608 - constants
                values | {"tenant": run.tenant_id, "id": run.id, "attempts": run.attempts},
            )
            return cursor.rowcount == 1
