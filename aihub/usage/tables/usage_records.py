"""Rows of requests: written in batches, priced afterwards, deleted when old."""

from collections.abc import Sequence
from datetime import datetime
from typing import LiteralString

from aihub.core.postgres import Database
from aihub.usage.rows import UsageRow
from aihub.usage.service import Cost

WRITE_TIMEOUT_S = 5.0

_TYPES: dict[str, LiteralString] = {
    "tenant_id": "text",
    "at": "timestamptz",
    "request_id": "text",
    "key_id": "text",
    "user_id": "text",
    "route": "text",
    "task": "text",
    "model": "text",
    "provider": "text",
    "streamed": "boolean",
    "prompt_tokens": "bigint",
    "completion_tokens": "bigint",
    "queued_ms": "float8",
    "waited_ms": "float8",
    "first_token_ms": "float8",
    "total_ms": "float8",
    "status": "int",
    "error_code": "text",
    "cache": "text",
    "cpu_s": "float8",
    "gpu_s": "float8",
    "joules": "float8",
}
COLUMNS: LiteralString = ", ".join(_TYPES)
_ARRAYS: LiteralString = ", ".join([f"%s::{kind}[]" for kind in _TYPES.values()])
# A batch whose commit was not heard of is written again, and must not count twice.
_INSERT: LiteralString = f"INSERT INTO usage_records ({COLUMNS}) SELECT * FROM unnest({_ARRAYS}) ON CONFLICT DO NOTHING"  # noqa: S608  # constants


class UsageTable:
    """Table `usage_records`. All methods raise `StorageUnavailableError` when PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, rows: Sequence[UsageRow]) -> None:
        """Write rows; those that are there already stay as they are."""
        if not rows:
            return
        async with self._database.transaction(timeout_s=WRITE_TIMEOUT_S) as connection:
            await connection.execute(_INSERT, [list(column) for column in zip(*rows, strict=True)])

    async def price(self, costs: Sequence[tuple[UsageRow, Cost]]) -> None:
        """Set what the requests of written rows cost."""
        if not costs:
            return
        values = [(row.tenant_id, row.at, row.request_id, cost.cpu_s, cost.gpu_s, cost.joules) for row, cost in costs]
        async with self._database.transaction(timeout_s=WRITE_TIMEOUT_S) as connection:
            await connection.execute(
                """
                UPDATE usage_records AS u SET cpu_s = new.cpu_s, gpu_s = new.gpu_s, joules = new.joules
                FROM unnest(%s::text[], %s::timestamptz[], %s::text[], %s::float8[], %s::float8[], %s::float8[])
                    AS new (tenant_id, at, request_id, cpu_s, gpu_s, joules)
                WHERE (u.tenant_id, u.at, u.request_id) = (new.tenant_id, new.at, new.request_id)
                """,
                [list(column) for column in zip(*values, strict=True)],
            )

    async def delete_before(self, at: datetime, *, most: int) -> int:
        """Delete up to `most` rows of requests that ended before `at`; returns how many."""
        async with self._database.transaction(timeout_s=WRITE_TIMEOUT_S) as connection:
            cursor = await connection.execute(
                "DELETE FROM usage_records WHERE ctid = ANY(ARRAY(SELECT ctid FROM usage_records WHERE at < %s LIMIT %s))",
                (at, most),
            )
            return cursor.rowcount
