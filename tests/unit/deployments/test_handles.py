"""A connection to an application: it looks seldom while nobody asks, and at once when somebody does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from ray.exceptions import RayActorError

from aihub.core.errors import ModelUnavailableError
from aihub.core.health import PartHealth
from aihub.core.request_record import RequestRecord, current_record
from deployments import handles
from deployments.handles import AppConnection, translate_error

UP_S = 0.02


class FakeReplica:
    """Stands for the handle of an application, and for each method of it."""

    def __init__(self) -> None:
        self.probes = 0
        self.is_dead = False
        self.is_frozen = False

    def options(self, *, method_name: str, stream: bool) -> "FakeMethod":
        return FakeMethod(self, method_name)


class FakeMethod:
    def __init__(self, replica: FakeReplica, name: str) -> None:
        self._replica, self._name = replica, name

    async def remote(self, *_args: Any) -> Any:
        if self._name == "health":
            self._replica.probes += 1
        if self._replica.is_frozen:
            await asyncio.sleep(60)
        if self._replica.is_dead:
            raise RayActorError
        return PartHealth("ok") if self._name == "health" else "an answer"


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> FakeReplica:
    fake = FakeReplica()
    monkeypatch.setattr(handles.serve, "get_app_handle", lambda _name: fake)
    monkeypatch.setattr(handles, "PROBE_WHEN_UP_S", UP_S)
    monkeypatch.setattr(handles, "PROBE_WHEN_DOWN_S", UP_S)
    monkeypatch.setattr(handles, "PROBE_WHEN_QUIET_S", 30.0)
    return fake


@asynccontextmanager
async def connected(replica: FakeReplica) -> AsyncIterator[AppConnection]:
    connection = AppConnection("part", "The part")
    connection.start()
    await until(lambda: connection.health.status == "ok")
    try:
        yield connection
    finally:
        await connection.close()


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # a probe has no event
            await asyncio.sleep(0.005)


async def test_nobody_asks_and_the_part_is_left_alone(replica: FakeReplica) -> None:
    async with connected(replica):
        await asyncio.sleep(10 * UP_S)
        assert replica.probes == 1


async def test_a_request_brings_the_next_probe_and_so_a_dead_part_is_found(replica: FakeReplica) -> None:
    async with connected(replica) as connection:
        await asyncio.sleep(3 * UP_S)
        connection.method("embed")
        await until(lambda: replica.probes == 2)
        replica.is_dead = True
        connection.method("embed")
        await until(lambda: connection.health.status == "down")


async def test_a_failed_call_marks_the_part_down_at_once_and_a_probe_brings_it_back(replica: FakeReplica) -> None:
    async with connected(replica) as connection:
        replica.is_dead = True
        with pytest.raises(ModelUnavailableError):
            await connection.call("embed")
        assert connection.health.status == "down"
        replica.is_dead = False
        await until(lambda: connection.health.status == "ok")


async def test_a_look_after_a_pause_sees_a_part_that_died_meanwhile(replica: FakeReplica) -> None:
    async with connected(replica) as connection:
        await asyncio.sleep(3 * UP_S)
        replica.is_dead = True
        assert connection.health.status == "ok"
        looks = await asyncio.gather(*(connection.look() for _ in range(3)))
        assert {health.status for health in looks} == {"down"}


async def test_a_look_at_a_frozen_part_ends_soon(replica: FakeReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "LOOK_TIMEOUT_S", 0.05)
    async with connected(replica) as connection:
        await asyncio.sleep(3 * UP_S)
        replica.is_frozen = True
        async with asyncio.timeout(1):
            await connection.look()


async def test_a_look_that_is_cancelled_leaves_the_probe_running(replica: FakeReplica) -> None:
    async with connected(replica) as connection:
        await asyncio.sleep(3 * UP_S)
        replica.is_frozen = True
        look = asyncio.create_task(connection.look())
        await asyncio.sleep(UP_S)
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)
        replica.is_frozen = False
        assert connection.health.status == "ok"
        await connection.look()
        assert replica.probes == 2


async def test_probes_go_on_when_neither_the_part_nor_the_controller_answers(
    replica: FakeReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_away(_name: str) -> int:
        raise RayActorError

    monkeypatch.setattr(handles, "count_running_replicas", be_away)
    monkeypatch.setattr(handles, "PROBE_TIMEOUT_S", UP_S)
    async with connected(replica) as connection:
        await asyncio.sleep(3 * UP_S)
        replica.is_frozen = True
        connection.method("embed")
        await until(lambda: connection.health.status == "degraded")
        replica.is_frozen = False
        await until(lambda: connection.health.status == "ok")


def test_a_request_over_grpcs_limit_is_told_to_be_smaller() -> None:
    too_large = grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.aio.Metadata(), grpc.aio.Metadata())
    assert translate_error(too_large, "The speech service").status == 413


async def test_time_in_a_part_is_noted_in_the_record_of_the_request(replica: FakeReplica) -> None:
    record = RequestRecord()
    token = current_record.set(record)
    async with connected(replica) as connection:
        replica.is_frozen = True
        asking = asyncio.create_task(connection.call("ask"))
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert 0.1 <= record.waited_s < 0.2
        await asyncio.sleep(0.05)
        assert record.overhead_s >= 0.05
    current_record.reset(token)
