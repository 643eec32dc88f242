"""Limiters and callers for the tests of limits."""

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from prometheus_client import CollectorRegistry

from aihub.accounts.metrics import LimitMetrics
from aihub.accounts.rate_limits import RateLimits
from aihub.accounts.settings import LimitSettings
from aihub.core.logging import response_headers
from aihub.core.principal import KeyLimits, Principal

_numbers = itertools.count()


def caller(**limits: int) -> Principal:
    """A caller with a key of its own."""
    return Principal(role="user", key_id=f"key-{next(_numbers)}", limits=KeyLimits(**limits))


@asynccontextmanager
async def limiter(
    redis_url: str | None,
    settings: LimitSettings | None = None,
    registry: CollectorRegistry | None = None,
    timeout_s: float = 5.0,
) -> AsyncIterator[RateLimits]:
    """A replica's limits; they are patient, as a busy machine is no outage."""
    metrics = LimitMetrics(registry or CollectorRegistry())
    opened = RateLimits(redis_url, settings or LimitSettings(), metrics, timeout_s=timeout_s)
    try:
        yield opened
    finally:
        await opened.close()


@contextmanager
def answer_headers() -> Iterator[dict[str, str]]:
    """The headers that the answer of one request gets."""
    headers: dict[str, str] = {}
    token = response_headers.set(headers)
    try:
        yield headers
    finally:
        response_headers.reset(token)
