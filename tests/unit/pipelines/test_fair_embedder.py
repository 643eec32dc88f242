"""Embeddings in fair turns, before an embedder that takes its time."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from aihub.accounts.metrics import LimitMetrics
from aihub.core.errors import OverloadedError
from aihub.core.fair_queue import FairQueue, QueueFullError
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord, current_record
from aihub.embeddings.service import Embeddings
from pipelines.fair_embedder import FairEmbedder
from tests.unit.pipelines.rag_parts import CardOnlyEmbedder


class SlowEmbedder(CardOnlyEmbedder):
    """Embeds one request at a time, in the order of arrival."""

    def __init__(self, service_s: float) -> None:
        super().__init__()
        self._service_s = service_s
        self._lock = asyncio.Lock()

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        async with self._lock:
            await asyncio.sleep(self._service_s)
        return Embeddings(np.ones((len(inputs), 2), dtype=np.float32), [1] * len(inputs))


async def embed_as(embedder: FairEmbedder, key_id: str | None) -> float:
    """Embed a text in a request of this key, and return how long that took in seconds."""
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    record = RequestRecord(principal=Principal(key_id=key_id))
    token = current_record.set(record)
    try:
        await embedder.embed(["xin chào"])
    finally:
        current_record.reset(token)
    return loop.time() - started_s


def fair(service_s: float, places: int, most_waiting: int) -> tuple[FairEmbedder, FairQueue, CollectorRegistry]:
    queue, registry = FairQueue(places, most_waiting), CollectorRegistry()
    return FairEmbedder(SlowEmbedder(service_s), queue, LimitMetrics(registry).refused), queue, registry


async def test_texts_of_one_key_do_not_hold_up_those_of_another() -> None:
    embedder, queue, _ = fair(0.004, 4, 1000)
    flood = [asyncio.create_task(embed_as(embedder, "flood")) for _ in range(300)]
    await asyncio.sleep(0.05)
    times_s = [await embed_as(embedder, "other") for _ in range(10)]
    assert sum(not task.done() for task in flood) > 100
    assert sorted(times_s)[8] < 0.1  # four places before it and its own, 20 ms; all of the flood would be a second
    await asyncio.gather(*flood)
    assert (queue.taken, queue.waiting) == (0, 0)


async def test_a_full_queue_is_429_for_its_key_and_503_for_who_has_none() -> None:
    embedder, queue, registry = fair(0.01, 1, 2)
    tasks = [asyncio.create_task(embed_as(embedder, "flood")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await embed_as(embedder, "flood")
    assert await embed_as(embedder, "other") > 0
    await asyncio.gather(*tasks)
    results = await asyncio.gather(*(embed_as(embedder, None) for _ in range(4)), return_exceptions=True)
    assert [type(result) for result in results if not isinstance(result, float)] == [OverloadedError]
    assert registry.get_sample_value("aihub_limits_refused_total", {"reason": "queue"}) == 1
    assert (queue.taken, queue.waiting) == (0, 0)


async def test_what_is_cancelled_gives_its_place_back() -> None:
    embedder, queue, _ = fair(0.02, 1, 10)
    tasks = [asyncio.create_task(embed_as(embedder, "a")) for _ in range(3)]
    await asyncio.sleep(0.005)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[2].result() > 0
    assert (queue.taken, queue.waiting) == (0, 0)
    assert (await embedder.model_info()).model_id == "card-only"
    assert (await embedder.health()).status == "ok"
