"""One row of usage: what is kept of a request."""

import re
from datetime import UTC, datetime
from typing import NamedTuple

from aihub.core.request_record import RequestRecord
from aihub.usage.tasks import task_of

MAX_TEXT_CHARS = 256
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class UsageRow(NamedTuple):
    """The columns of table `usage_records`, in its order. Times in milliseconds, devices in seconds.

    Attributes:
        at: When the request ended (UTC); with tenant and request id it names the row.
        total_ms: From the first byte of the request to the last of the answer.
    """

    tenant_id: str
    at: datetime
    request_id: str
    key_id: str | None
    user_id: str | None
    route: str
    task: str
    model: str
    provider: str
    streamed: bool
    prompt_tokens: int
    completion_tokens: int
    queued_ms: float
    waited_ms: float
    first_token_ms: float | None
    total_ms: float
    status: int
    error_code: str
    cache: str
    cpu_s: float | None
    gpu_s: float | None
    joules: float | None


PUBLIC_NAMES = tuple({"tenant_id": "tenant", "key_id": "key", "user_id": "user"}.get(name, name) for name in UsageRow._fields)
"""The columns, in their order, by the names that the filters and the figures of analytics have."""


def row_of(record: RequestRecord, at: datetime | None = None) -> UsageRow:
    """Return the row of an ended request; text is cut to `MAX_TEXT_CHARS`, and what PostgreSQL cannot store becomes `?`."""
    first_s = record.first_token_s
    return UsageRow(
        tenant_id=_storable(record.principal.tenant_id),
        at=at or datetime.now(UTC),
        request_id=_storable(record.request_id),
        key_id=record.principal.key_id,
        user_id=record.principal.user_id,
        route=_storable(record.route),
        task=_storable(record.task or task_of(record.route)),
        model=_storable(record.model),
        provider=_storable(record.provider),
        streamed=record.is_streamed,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        queued_ms=_ms(record.queued_s),
        waited_ms=_ms(record.waited_s),
        first_token_ms=None if first_s is None else _ms(first_s),
        total_ms=_ms(record.total_s),
        status=record.status,
        error_code=_storable(record.error_code),
        cache=record.cache,
        cpu_s=record.cpu_s,
        gpu_s=record.gpu_s,
        joules=record.joules,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _storable(text: str) -> str:
    return _UNSTORABLE.sub("?", text[:MAX_TEXT_CHARS])
