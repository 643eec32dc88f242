"""Sums, rates and percentiles over rows of requests, and the rows themselves page by page."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, LiteralString

from psycopg.errors import QueryCanceled
from psycopg.rows import dict_row, tuple_row

from aihub.core.errors import StorageUnavailableError, UnavailableError
from aihub.core.postgres import Database
from aihub.usage.rows import UsageRow
from aihub.usage.schemas import Group
from aihub.usage.tables.usage_records import COLUMNS

QUERY_TIMEOUT_S = 20.0
PAGE_ROWS = 1_000

GROUPS: dict[Group, LiteralString] = {
    "day": "(at AT TIME ZONE 'UTC')::date",
    "model": "model",
    "provider": "provider",
    "key": "key_id",
    "user": "user_id",
    # As an expression: read in the order of the index, the rows of many tenants would be read page by page all over the table.
    "tenant": "(tenant_id || '')",
    "route": "route",
    "task": "task",
    "status": "status",
    "cache": "cache",
}
_PATH: LiteralString = "split_part(route, ' ', 2)"
# A websocket ends with a code of RFC 6455 in place of a status: 1011 and above are the server's fault, 1002 to 1010 the client's.
FAILED: LiteralString = "(status BETWEEN 500 AND 599 OR status BETWEEN 1011 AND 1015 OR (status < 400 AND error_code <> ''))"
_REFUSED: LiteralString = "(status BETWEEN 400 AND 498 OR status BETWEEN 1002 AND 1010)"
_FIGURES: LiteralString = f"""
    count(*) AS requests,
    count(*) FILTER (WHERE streamed) AS streamed,
    count(*) FILTER (WHERE {FAILED}) AS failed,
    count(*) FILTER (WHERE {_REFUSED}) AS refused,
    count(*) FILTER (WHERE status = 499) AS cancelled,
    coalesce(sum(prompt_tokens) FILTER (WHERE cache <> 'hit'), 0)::bigint AS prompt_tokens,
    coalesce(sum(completion_tokens) FILTER (WHERE cache <> 'hit'), 0)::bigint AS completion_tokens,
    coalesce(sum(prompt_tokens + completion_tokens) FILTER (WHERE cache = 'hit'), 0)::bigint AS cached_tokens,
    count(*) FILTER (WHERE cache = 'hit') AS cache_hits,
    count(*) FILTER (WHERE cache <> 'off') AS cache_lookups,
    coalesce(sum(queued_ms), 0) / 1000 AS queued_s,
    coalesce(sum(waited_ms), 0) / 1000 AS waited_s,
    coalesce(sum(total_ms), 0) / 1000 AS total_s,
    sum(cpu_s) AS cpu_s,
    sum(gpu_s) AS gpu_s,
    sum(joules) AS joules,
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY total_ms) AS total_ms,
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY first_token_ms) AS first_token_ms,
    percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY queued_ms) AS queued_ms
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows of requests that ended in a period.

    Attributes:
        begin, end: The latter is excluded.
        tenant_id: None for all tenants.
        equal: Values that columns must have; a route without a method, `/v1/...`, is that of all its methods.
        statuses: First and last status; None for all.
    """

    begin: datetime
    end: datetime
    tenant_id: str | None = None
    equal: Mapping[Group, str] = field(default_factory=dict)
    statuses: tuple[int, int] | None = None

    def conditions(self) -> tuple[LiteralString, dict[str, Any]]:
        """Return the WHERE clause and its values."""
        clause: LiteralString = "at >= %(begin)s AND at < %(end)s"
        values: dict[str, Any] = {"begin": self.begin, "end": self.end}
        if self.tenant_id is not None:
            clause += " AND tenant_id = %(tenant)s"
            values["tenant"] = self.tenant_id
        for name, column in GROUPS.items():
            if name in self.equal:
                has_no_method = name == "route" and self.equal[name].startswith("/")
                clause += " AND " + (_PATH if has_no_method else column) + " = %(" + name + ")s"
                values[name] = self.equal[name]
        if self.statuses is not None:
            clause += " AND status BETWEEN %(first)s AND %(last)s"
            values["first"], values["last"] = self.statuses
        return clause, values


class UsageFiguresTable:
    """Reads table `usage_records`.

    All methods raise `StorageUnavailableError` when PostgreSQL does not answer, and all but `rows` raise `UnavailableError`
    (`analytics_too_slow`) when they would take longer than `QUERY_TIMEOUT_S`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def figures(self, selection: Selection, group_by: Sequence[Group], *, most: int) -> list[dict[str, Any]]:
        """Return up to `most` groups, and with them one row for all together, whose `is_total` is true."""
        clause, values = selection.conditions()
        names: LiteralString = "".join([GROUPS[name] + " AS group_" + name + ", " for name in GROUPS if name in group_by])
        keys: LiteralString = ", ".join([GROUPS[name] for name in GROUPS if name in group_by])
        sets: LiteralString = "GROUPING SETS ((" + keys + "), ())" if group_by else "()"
        total: LiteralString = "GROUPING(" + keys + ") > 0" if group_by else "true"
        order: LiteralString = ("group_day, " if "day" in group_by else "") + "requests DESC" + (", " + keys if keys else "")
        query: LiteralString = (
            "SELECT " + names + total + " AS is_total, " + _FIGURES + " FROM usage_records WHERE " + clause  # noqa: S608  # names of columns
            + " GROUP BY " + sets + " ORDER BY is_total DESC, " + order + " LIMIT %(most)s"
        )  # fmt: skip
        try:
            async with (
                self._database.transaction(timeout_s=QUERY_TIMEOUT_S) as connection,
                connection.cursor(row_factory=dict_row) as cursor,
            ):
                await cursor.execute(query, values | {"most": most + 1})
                return await cursor.fetchall()
        except StorageUnavailableError as error:
            raise _too_slow(error) from error

    async def rows(self, selection: Selection) -> AsyncGenerator[list[UsageRow], None]:
        """Yield the rows in pages, by tenant, then time. Nothing is held between two; rows that come meanwhile may be in."""
        tenant = selection.tenant_id
        if tenant is not None:
            async for page in self._rows_of(selection, tenant):
                yield page
            return
        tenant = await self._next_tenant("")
        while tenant is not None:
            async for page in self._rows_of(selection, tenant):
                yield page
            tenant = await self._next_tenant(tenant)

    async def knows_tenant(self, tenant_id: str) -> bool:
        """Whether there is a tenant, or rows of one that was."""
        return await self._finds(
            "SELECT FROM tenants WHERE id = %(tenant)s UNION ALL SELECT FROM usage_records WHERE tenant_id = %(tenant)s",
            {"tenant": tenant_id},
        )

    async def knows_key(self, key_id: str, tenant_id: str | None) -> bool:
        """Whether there is a key, or rows of one that was; of one tenant, or of any where `tenant_id` is None."""
        of_tenant: LiteralString = "" if tenant_id is None else " AND tenant_id = %(tenant)s"
        return await self._finds(
            "SELECT FROM api_keys WHERE id = %(key)s" + of_tenant  # noqa: S608  # constants
            + " UNION ALL SELECT FROM usage_records WHERE key_id = %(key)s" + of_tenant,
            {"key": key_id, "tenant": tenant_id},
        )  # fmt: skip

    async def _finds(self, query: LiteralString, values: Mapping[str, Any]) -> bool:
        try:
            async with self._database.transaction(timeout_s=QUERY_TIMEOUT_S) as connection:
                cursor = await connection.execute("SELECT EXISTS (" + query + ")", values)
                row = await cursor.fetchone()
        except StorageUnavailableError as error:
            raise _too_slow(error) from error
        return bool(row and row[0])

    async def _rows_of(self, selection: Selection, tenant_id: str) -> AsyncGenerator[list[UsageRow], None]:
        clause, values = selection.conditions()
        values |= {"tenant": tenant_id, "at": selection.begin, "id": "", "page": PAGE_ROWS}
        query: LiteralString = (
            "SELECT " + COLUMNS + " FROM usage_records WHERE " + clause  # noqa: S608  # names of columns
            + " AND tenant_id = %(tenant)s AND (at, request_id) > (%(at)s, %(id)s) ORDER BY at, request_id LIMIT %(page)s"
        )  # fmt: skip
        while True:
            async with self._database.connection() as connection, connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(query, values)
                page = [UsageRow(*row) for row in await cursor.fetchall()]
            if page:
                yield page
            if len(page) < PAGE_ROWS:
                return
            values |= {"at": page[-1].at, "id": page[-1].request_id}

    async def _next_tenant(self, after: str) -> str | None:
        """Return the first tenant after one; by the index, as there may be millions of rows of each."""
        async with self._database.connection() as connection:
            cursor = await connection.execute("SELECT min(tenant_id) FROM usage_records WHERE tenant_id > %s", (after,))
            row = await cursor.fetchone()
            return row[0] if row is not None else None


def _too_slow(error: StorageUnavailableError) -> UnavailableError:
    if not isinstance(error.__cause__, QueryCanceled):
        return error
    return UnavailableError(
        f"The figures took longer than {QUERY_TIMEOUT_S:g} s. Ask for fewer days or one tenant.",
        code="analytics_too_slow",
        retry_after_s=60,
    )
