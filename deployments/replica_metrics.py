"""The ingress replicas tell each other their metrics by way of the `models` application, which has one replica."""

import asyncio
import contextlib
import logging
import uuid

from prometheus_client import CollectorRegistry, generate_latest

from aihub.core.errors import HubError
from aihub.core.metrics import merge_metrics
from aihub.models.service import ModelManager

logger = logging.getLogger(__name__)

PERIOD_S = 5.0


class ReplicaMetrics:
    """What one ingress replica knows of all.

    Args:
        registry: Its own metrics.
    """

    def __init__(self, models: ModelManager, registry: CollectorRegistry) -> None:
        self._models = models
        self._registry = registry
        self._name = uuid.uuid4().hex[:8]
        self._reason: str | None = None

    async def run(self) -> None:
        """Tell the others every `PERIOD_S`, until cancelled."""
        while True:
            with contextlib.suppress(HubError):  # the state of the connection says so; the next time tries again
                await self._exchange()
            await asyncio.sleep(PERIOD_S)

    async def render(self) -> bytes:
        """Return the metrics of all replicas in Prometheus' text format, others' up to `PERIOD_S` old.

        While the models application is away they are this replica's alone.
        """
        try:
            texts = await self._exchange()
            self._reason = None
        except HubError as error:
            if self._reason != error.message:  # not at each scrape
                logger.warning("Metrics of the other replicas are missing: %s", error.message)
            self._reason = error.message
            texts = {self._name: generate_latest(self._registry)}
        return await asyncio.to_thread(merge_metrics, texts)

    async def _exchange(self) -> dict[str, bytes]:
        return await self._models.exchange_metrics(self._name, generate_latest(self._registry))
