import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aihub.core.errors import ModelUnavailableError
from aihub.core.metrics import Metrics, ReplicaBoard
from aihub.http.app import create_app
from deployments import replica_metrics
from deployments.replica_metrics import ReplicaMetrics
from tests.unit.http.services import Parts


class Models:
    """The `models` application without a cluster between."""

    def __init__(self) -> None:
        self.board = ReplicaBoard()
        self.is_away = False

    async def exchange_metrics(self, replica: str, text: bytes) -> dict[str, bytes]:
        if self.is_away:
            raise ModelUnavailableError("The model manager is not available now.")
        return self.board.exchange(replica, text)


async def requests_by_replica(metrics: Metrics, replicas: ReplicaMetrics) -> list[float]:
    services = replace(Parts(metrics=metrics).services(), replica_metrics=replicas.render)
    transport = httpx.ASGITransport(create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        text = (await http.get("/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sorted(one.value for one in samples if one.name == "aihub_http_requests_total" and one.labels["route"] == "/x")


@pytest.fixture
async def models(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Models]:
    monkeypatch.setattr(replica_metrics, "PERIOD_S", 0.02)
    yield Models()


async def test_whichever_replica_is_asked_answers_for_all(models: Models) -> None:
    first, second = Metrics(), Metrics()
    replicas = [ReplicaMetrics(models, metrics.registry) for metrics in (first, second)]
    tasks = [asyncio.create_task(replica.run()) for replica in replicas]
    for metrics, count in ((first, 3), (second, 5)):
        for _ in range(count):
            metrics.observe_request("GET", "/x", 200, 0.01)
    await asyncio.sleep(0.2)
    assert await requests_by_replica(first, replicas[0]) == [3, 5]
    assert await requests_by_replica(second, replicas[1]) == [3, 5]
    models.is_away = True
    assert await requests_by_replica(first, replicas[0]) == [3]  # its own are never missing
    models.is_away = False
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in tasks)
    assert await requests_by_replica(first, replicas[0]) == [3, 5]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_others_that_are_missing_are_logged_once_and_again_after_they_were_back(
    models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    replica = ReplicaMetrics(models, Metrics().registry)
    for is_away in (True, True, False, True):
        models.is_away = is_away
        await replica.render()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
