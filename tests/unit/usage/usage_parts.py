"""Records, rows and a reader of what was written."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord
from aihub.usage.rows import UsageRow, row_of
from aihub.usage.tables.usage_figures import Selection, UsageFiguresTable

CHAT = "POST /v1/chat/completions"
LONG_AGO, FAR_AWAY = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


def record(tenant: str, **changes: Any) -> RequestRecord:
    """A good chat of `tenant`."""
    values: dict[str, Any] = {"route": CHAT, "model": "mô-hình", "provider": "local", "status": 200, "total_s": 0.1}
    return RequestRecord(principal=Principal(tenant_id=tenant, role="user", user_id="usr_1", key_id="key_1"), **values | changes)


def row(tenant: str, at: datetime | None = None, **changes: Any) -> UsageRow:
    """The row of a good chat; `changes` are columns."""
    return row_of(record(tenant), at)._replace(**changes)


async def stored(database: Database, tenant: str) -> list[UsageRow]:
    """All rows of a tenant, the oldest first."""
    pages = UsageFiguresTable(database).rows(Selection(LONG_AGO, FAR_AWAY, tenant))
    return [found async for page in pages for found in page]


async def until(condition: Callable[[], bool], *, within_s: float = 10.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true"
        await asyncio.sleep(0.01)
