"""What the lifecycle counts."""

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.fake import FakeHost
from aihub.models.metrics import LifecycleMetrics
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, running_hub, spec

A, B = spec("a", 6), spec("b", 6)


class Counts:
    """Reads one registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = LifecycleMetrics(self.registry)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def unloads(self, reason: str) -> float | None:
        return self.value("aihub_model_unloads_total", device="cpu", reason=reason)

    def failures(self, stage: str) -> float | None:
        return self.value("aihub_model_failures_total", device="cpu", stage=stage)


@pytest.fixture
def counts() -> Counts:
    return Counts()


async def test_loads_and_their_time_are_counted(counts: Counts) -> None:
    async with running_hub(A, metrics=counts.metrics, host=FakeHost({"cpu": 64 * GIB}, start_s=20.0)) as hub:
        await hub.clients[0].ask("a")
    assert counts.value("aihub_model_load_seconds_count", device="cpu") == 1
    assert counts.value("aihub_model_load_seconds_bucket", device="cpu", le="15.0") == 0
    assert counts.value("aihub_model_load_seconds_bucket", device="cpu", le="30.0") == 1


async def test_unloads_are_counted_by_their_reason(counts: Counts) -> None:
    policy = replace(POLICY, min_residency_s=0.0, unload_timeout_s=60.0)
    async with running_hub(A, B, metrics=counts.metrics, policy=policy) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("b")
        assert (counts.unloads("evicted"), counts.unloads("idle"), counts.unloads("requested")) == (1, None, None)
        await hub.lifecycle.unload("b")
        assert counts.unloads("requested") == 1
        await hub.clients[0].ask("a")
        await asyncio.sleep(90)
        assert counts.unloads("idle") == 1
    assert counts.unloads("evicted") == 1


async def test_failures_are_counted_by_the_stage_they_come_from(counts: Counts) -> None:
    host = FakeHost({"cpu": 64 * GIB})
    host.failures["a"] = [ValueError("weights are gone")]
    host.stop_failures["b"] = [ValueError("it hangs")]
    async with running_hub(A, spec("b", 2), metrics=counts.metrics, host=host) as hub:
        with pytest.raises(ModelUnavailableError):
            await hub.lifecycle.load("a")
        assert (counts.failures("start"), counts.unloads("requested")) == (1, None)
        await hub.lifecycle.load("b")
        with pytest.raises(ModelUnavailableError):
            await hub.lifecycle.unload("b")
        assert (counts.failures("stop"), counts.unloads("requested")) == (1, None)
        await asyncio.sleep(400)
        await hub.lifecycle.load("a")
        host.lose("a")
        await asyncio.sleep(10)
        assert counts.failures("run") == 1


async def test_gauges_follow_models_memory_and_waiting_requests(counts: Counts) -> None:
    async with running_hub(A, B, metrics=counts.metrics, fixed={"embeddings": 1.0}) as hub:
        waiting = [asyncio.create_task(hub.clients[0].ask("a")) for _ in range(3)]
        await asyncio.sleep(5)
        assert counts.value("aihub_model_waiting_requests") == 3
        assert counts.value("aihub_local_models", state="loading") == 1
        await asyncio.gather(*waiting)
        await asyncio.sleep(10)
    assert counts.value("aihub_model_waiting_requests") == 0
    assert counts.value("aihub_local_models", state="ready") == 1
    assert counts.value("aihub_local_models", state="unloaded") == 1
    assert counts.value("aihub_local_models", state="loading") == 0
    assert counts.value("aihub_device_memory_bytes", device="cpu", kind="budget") == 10 * GIB
    assert counts.value("aihub_device_memory_bytes", device="cpu", kind="reserved") == 7 * GIB
    assert counts.value("aihub_device_memory_bytes", device="cpu", kind="used") == 6 * GIB
