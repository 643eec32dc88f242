"""The work of indexing a document as a request of its tenant: it has a row of usage, and costs what it costs."""

import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord, current_record
from aihub.usage.service import UsageSink

Outcome = TypeVar("Outcome", bound=str)

ROUTE, TASK = "index file", "documents"
_STATUSES = {"completed": 200, "failed": 422, "postponed": 503}
_CANCELLED = 499


async def billed(work: Coroutine[Any, Any, Outcome], tenant_id: str, usage: UsageSink | None) -> Outcome:
    """Await one attempt at a document and leave its record; run it in a task of its own.

    The record's status is 200 for an indexed document, 422 for one that cannot be, 503 for an attempt that waits for the next,
    and 499 for one that was given up.
    """
    if usage is None:
        return await work
    record = RequestRecord(principal=Principal(tenant_id=tenant_id, role="user"), route=ROUTE, task=TASK, status=_CANCELLED)
    current_record.set(record)
    usage.begin(record)
    try:
        outcome = await work
        record.status = _STATUSES.get(outcome, _CANCELLED)
        return outcome
    finally:
        usage.end(record)
        record.total_s = time.perf_counter() - record.started_s
        usage.record(record)
