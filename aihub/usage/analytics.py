"""Figures over the rows of requests, and their export, for a caller."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, date, datetime
from typing import Any

from aihub.core.errors import InvalidRequestError, NotFoundError, OverloadedError, PermissionDeniedError
from aihub.core.principal import Principal
from aihub.usage.csv_text import render_csv
from aihub.usage.rows import PUBLIC_NAMES, UsageRow
from aihub.usage.schemas import MAX_GROUPS, Analytics, Group, Percentiles, UsageFigures, UsageFilters, UsageGroup, UsageQuery
from aihub.usage.tables.usage_figures import Selection, UsageFiguresTable

MAX_AT_ONCE = 2
"""Each sorts up to all rows; more would take the database from those who wait for answers."""
_PLACE_TIMEOUT_S = 5.0
_EQUAL: tuple[Group, ...] = ("model", "provider", "key", "user", "route", "task", "cache")


class UsageAnalytics:
    """Implements `aihub.usage.service.AnalyticsService`."""

    def __init__(self, table: UsageFiguresTable) -> None:
        self._table = table
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    async def analytics(self, principal: Principal, query: UsageQuery) -> Analytics:
        """Return sums, percentiles and rates of each group; see `AnalyticsService`.

        Raises:
            OverloadedError: Others have been asking for `_PLACE_TIMEOUT_S`.
        """
        selection = _select(principal, query)
        try:
            async with asyncio.timeout(_PLACE_TIMEOUT_S):
                await self._places.acquire()
        except TimeoutError as error:
            raise OverloadedError("Others ask for figures of usage. Try again in a few seconds.", retry_after_s=5) from error
        try:
            found = await self._table.figures(selection, query.group_by, most=MAX_GROUPS + 1)
            if not found[0]["requests"]:
                await self._refuse_unknown(principal, selection)
        finally:
            self._places.release()
        if len(found) > MAX_GROUPS + 1:
            raise InvalidRequestError(
                f"There are more than {MAX_GROUPS} groups. Ask for fewer days, name fewer groups, or filter.",
                param="group_by",
                code="too_many_groups",
            )
        total = _figures(found[0])
        data = [UsageGroup(group=_names(row, query.group_by), **_figures(row)) for row in found[1:]]
        return Analytics(
            begin=selection.begin, end=selection.end, group_by=query.group_by, data=data, total=UsageFigures(**total)
        )

    async def export(self, principal: Principal, filters: UsageFilters) -> AsyncGenerator[str, None]:
        """Yield the rows as CSV, some at a time; see `AnalyticsService`."""
        selection = _select(principal, filters)
        async with aclosing(self._table.rows(selection)) as pages:
            # With the first rows, so that what goes wrong at first is raised before anything is sent.
            first: list[UsageRow] = await anext(pages, [])
            if not first:
                await self._refuse_unknown(principal, selection)
            yield render_csv([PUBLIC_NAMES]) + render_csv(first)
            async for page in pages:
                yield render_csv(page)

    async def _refuse_unknown(self, principal: Principal, selection: Selection) -> None:
        """Tell a name that nobody has from one without use. Of a key of others a user hears the same as of none."""
        tenant = selection.tenant_id
        if tenant not in {None, principal.tenant_id} and not await self._table.knows_tenant(tenant):
            raise NotFoundError(
                f"There is no tenant {tenant!r}. `aihub tenants list` shows all.", param="tenant", code="tenant_not_found"
            )
        key = selection.equal.get("key")
        if key is not None and not await self._table.knows_key(key, tenant):
            where = "" if tenant is None else f" in tenant {tenant!r}"
            raise NotFoundError(
                f"There is no key {key!r}{where}. Send a public id, `key_...`, as `aihub keys list` or `group_by=key` shows it.",
                param="key",
                code="key_not_found",
            )


def _select(principal: Principal, filters: UsageFilters) -> Selection:
    begin, end = filters.period(datetime.now(UTC))
    tenant = filters.tenant
    if principal.role != "admin":
        if tenant not in {None, principal.tenant_id}:
            raise PermissionDeniedError(
                "Only administrators see other tenants. Leave `tenant` out.", param="tenant", code="tenant_not_allowed"
            )
        tenant = principal.tenant_id
    equal: dict[Group, str] = {name: value for name in _EQUAL if (value := getattr(filters, name)) is not None}
    return Selection(begin, end, tenant, equal, _statuses(filters.status))


def _statuses(status: str | None) -> tuple[int, int] | None:
    if status is None:
        return None
    if status.endswith("xx"):
        first = int(status[0]) * 100
        return first, first + 99
    return int(status), int(status)


def _names(row: dict[str, Any], group_by: Sequence[Group]) -> dict[Group, str | int | None]:
    names: dict[Group, str | int | None] = {}
    for name in group_by:
        value = row[f"group_{name}"]
        names[name] = value.isoformat() if isinstance(value, date) else value
    return names


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    figures = {name: row[name] for name in UsageFigures.model_fields if name in row}
    for name in ("total_ms", "first_token_ms", "queued_ms"):
        p50, p95, p99 = row[name] or (None, None, None)
        figures[name] = Percentiles(p50=p50, p95=p95, p99=p99)
    requests, lookups = row["requests"], row["cache_lookups"]
    figures["error_rate"] = row["failed"] / requests if requests else 0.0
    figures["cache_hit_rate"] = row["cache_hits"] / lookups if lookups else None
    return figures
