"""Metrics of the applications beside the ingress, and what is told of one that gives none."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from prometheus_client import CollectorRegistry, Counter

from aihub.core.errors import HubError

logger = logging.getLogger(__name__)

ReadMetrics = Callable[[], Awaitable[bytes]]
"""Returns Prometheus' text format, or raises a `HubError`."""


class PartMetrics:
    """The metrics of other applications, joined.

    Args:
        parts: What asks each, by the name that the label `part` and the log have.
        registry: Gets the counter of failures.
    """

    def __init__(self, parts: Mapping[str, ReadMetrics], registry: CollectorRegistry) -> None:
        self._parts = parts
        self._reasons: dict[str, str] = {}
        self._failures = Counter(
            "aihub_metrics_failures",
            "Scrapes without the metrics of a part, as it gave none.",
            ["part"],
            registry=registry,
        )
        for name in parts:
            self._failures.labels(name)  # shown as 0 from the beginning

    async def render(self) -> bytes:
        """Return them in Prometheus' text format, none of a part that is away; the log has each new reason once."""
        return b"".join(await asyncio.gather(*(self._render(name, read) for name, read in self._parts.items())))

    async def _render(self, name: str, read: ReadMetrics) -> bytes:
        try:
            text = await read()
        except HubError as error:
            self._failures.labels(name).inc()
            if self._reasons.get(name) != error.message:
                logger.warning("Metrics of %s are missing: %s", name, error.message)
            self._reasons[name] = error.message
            return b""
        if self._reasons.pop(name, None) is not None:
            logger.info("Metrics of %s are back.", name)
        return text
