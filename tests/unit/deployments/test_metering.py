"""From the request's record over a handle to a replica, and the cost back: also for who leaves, and from who dies."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Protocol

import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.core.health import PartHealth
from aihub.core.request_record import RequestRecord, current_record
from aihub.usage.apportionment import Spent, TakenCosts
from aihub.usage.meter import CostMeter
from deployments import handles, replica_costs
from deployments.handles import AppConnection
from deployments.metering import metered
from deployments.request_costs import RequestCosts
from deployments.work_ids import current_work


class Reader(Protocol):
    async def read(self, title: str) -> str: ...

    def pages(self, title: str) -> AsyncGenerator[str, None]: ...

    async def health(self) -> PartHealth: ...


class Counters:
    """Each call of `use` is a second of a core, half of it in a child, and 3 J of a card."""

    def __init__(self) -> None:
        self.own_s, self.others = 0.0, Spent()

    def use(self, seconds: float) -> None:
        self.own_s += seconds / 2
        self.others = self.others.plus(Spent(seconds / 2, seconds, 3 * seconds))

    def own_cpu_s(self) -> float:
        return self.own_s

    def read_others(self) -> Spent:
        return self.others


@metered(Reader)
class Replica:
    def __init__(self) -> None:
        self.counters = Counters()
        self.meter = CostMeter(self.counters, period_s=0.01)
        self.worked_for: list[str | None] = []

    async def read(self, title: str) -> str:
        self.worked_for.append(current_work.get())
        await asyncio.sleep(0.03)  # the meter has read its counters by then
        self.counters.use(1.0)
        if title == "a lost book":
            raise ModelUnavailableError("lost")
        return title

    async def pages(self, title: str) -> AsyncGenerator[str, None]:
        while True:
            await asyncio.sleep(0.03)
            self.counters.use(1.0)
            yield title

    async def health(self) -> PartHealth:
        return PartHealth("ok")


class Handle:
    """Serve's handle of the replica; `None` stands for a dead one."""

    def __init__(self, replica: Replica) -> None:
        self.replica: Replica | None = replica

    def options(self, *, method_name: str, stream: bool) -> Any:
        return Method(self, method_name)


class Method:
    def __init__(self, handle: Handle, name: str) -> None:
        self._handle, self._name = handle, name

    def remote(self, *args: Any, **options: Any) -> Any:
        if self._handle.replica is None:
            raise ModelUnavailableError("dead")
        answer = getattr(self._handle.replica, self._name)(*args, **options)
        return Stream(answer) if isinstance(answer, AsyncGenerator) else Response(answer)


class Response:
    def __init__(self, answer: Any) -> None:
        self._task = asyncio.ensure_future(answer)

    def __await__(self) -> Any:
        return self._task.__await__()

    def cancel(self) -> None:
        self._task.cancel()


class Stream:
    def __init__(self, items: AsyncGenerator[Any, None]) -> None:
        self._items = items

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Any:
        return await anext(self._items)

    def cancel(self) -> None:
        asyncio.get_running_loop().create_task(self._items.aclose())


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    handle = Handle(Replica())
    monkeypatch.setattr(handles.serve, "get_app_handle", lambda _: handle)
    monkeypatch.setattr(replica_costs, "read_replica_names", lambda _: [])
    return handle


async def connect(*, is_metered: bool = True) -> AppConnection:
    connection = AppConnection("reader", "The reader", is_metered=is_metered)
    connection.start()
    await connection.wait_until_up(5)
    return connection


@contextmanager
def request_of(costs: RequestCosts) -> Iterator[RequestRecord]:
    record = RequestRecord()
    token = current_record.set(record)
    try:
        costs.begin(record)
        yield record
    finally:
        costs.end(record)
        current_record.reset(token)


@pytest.fixture
def costs() -> RequestCosts:
    return RequestCosts(CostMeter(Counters(), period_s=0.01))


async def cost_of(costs: RequestCosts, record: RequestRecord, timeout_s: float = 2.0) -> Any:
    """Ask as the recorder does until the cost is known."""
    async with asyncio.timeout(timeout_s):
        while not (known := await costs.costs([record])):  # noqa: ASYNC110  # it is asked for
            await asyncio.sleep(0.01)
    return known[record.work_id]


async def test_a_call_is_charged_to_the_request_that_made_it(handle: Handle, costs: RequestCosts) -> None:
    connection = await connect()
    with request_of(costs) as record:
        assert await connection.call("read", "Số đỏ") == "Số đỏ"
    cost = await cost_of(costs, record)
    assert (cost.cpu_s, cost.gpu_s, cost.joules) == pytest.approx((1.0, 1.0, 3.0))
    assert handle.replica is not None
    assert handle.replica.worked_for == [record.work_id]
    await connection.close()


async def test_concurrent_requests_pay_together_what_was_used(handle: Handle, costs: RequestCosts) -> None:
    connection = await connect()

    async def ask(calls: int) -> RequestRecord:
        with request_of(costs) as record:
            await asyncio.gather(*(connection.call("read", "Kiều") for _ in range(calls)))
        return record

    records = await asyncio.gather(*(ask(calls) for calls in (1, 2, 3)))
    paid = [await cost_of(costs, record) for record in records]
    assert sum(cost.cpu_s for cost in paid) == pytest.approx(6.0)
    assert paid[0].cpu_s < paid[1].cpu_s < paid[2].cpu_s
    await connection.close()


async def test_a_stream_that_its_reader_leaves_is_paid_for(handle: Handle, costs: RequestCosts) -> None:
    connection = await connect()
    with request_of(costs) as record:
        async with aclosing(connection.stream("pages", "Kiều")) as pages:
            assert [await anext(pages), await anext(pages)] == ["Kiều", "Kiều"]
    assert (await cost_of(costs, record)).cpu_s >= 2.0
    await connection.close()


async def test_a_call_that_fails_or_is_cancelled_is_paid_for(handle: Handle, costs: RequestCosts) -> None:
    connection = await connect()
    with request_of(costs) as failed, pytest.raises(ModelUnavailableError):
        await connection.call("read", "a lost book")
    assert (await cost_of(costs, failed)).cpu_s == pytest.approx(1.0)
    with request_of(costs) as cancelled, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await connection.call("read", "Kiều")
    assert (await cost_of(costs, cancelled)).cpu_s == pytest.approx(0.0, abs=1e-9)
    await connection.close()


async def test_the_cost_of_a_replica_that_died_stays_unknown(handle: Handle, costs: RequestCosts) -> None:
    connection = await connect()
    with request_of(costs) as record:
        await connection.call("read", "Kiều")
    handle.replica = None
    assert await costs.costs([record]) == {}
    handle.replica = Replica()
    connection._health = PartHealth("ok")
    assert await costs.costs([record]) == {}
    await connection.close()


async def test_a_request_that_was_refused_before_any_work_costs_nothing_there(handle: Handle, costs: RequestCosts) -> None:
    connection = await connect()
    replica, handle.replica = handle.replica, None
    with request_of(costs) as record, pytest.raises(ModelUnavailableError):
        await connection.call("read", "Kiều")
    handle.replica = replica
    connection._health = PartHealth("ok")
    assert (await cost_of(costs, record)).cpu_s == 0.0
    await connection.close()


async def test_costs_told_to_nobody_who_waits_are_not_lost(handle: Handle, costs: RequestCosts) -> None:
    connection = await connect()
    with request_of(costs) as record:
        await connection.call("read", "Kiều")
    asking = asyncio.create_task(costs.costs([record]))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert (await cost_of(costs, record)).cpu_s == pytest.approx(1.0)
    await connection.close()


async def test_requests_with_the_same_id_from_their_clients_are_told_apart(handle: Handle, costs: RequestCosts) -> None:
    connection = await connect()
    records = []
    for calls in (1, 2):
        with request_of(costs) as record:
            record.request_id = "chosen by a client"
            for _ in range(calls):
                await connection.call("read", "Kiều")
        records.append(record)
    first_s, second_s = [(await cost_of(costs, record)).cpu_s for record in records]
    assert first_s + second_s == pytest.approx(3.0)
    assert first_s < second_s
    await connection.close()


@pytest.mark.parametrize("is_metered", [True, False])
async def test_calls_outside_of_requests_or_of_other_parts_carry_no_work(
    handle: Handle, costs: RequestCosts, is_metered: bool
) -> None:
    connection = await connect(is_metered=is_metered)
    if is_metered:
        await connection.call("read", "Kiều")
    else:
        with request_of(costs):
            await connection.call("read", "Kiều")
    assert handle.replica is not None
    assert handle.replica.worked_for == [None]
    await connection.close()


async def test_a_part_is_asked_for_many_requests_at_a_time(costs: RequestCosts) -> None:
    class Part:
        asked: Sequence[str] = ()

        async def take_costs(self, work_ids: Any) -> TakenCosts:
            self.asked = work_ids
            return TakenCosts({work_id: Spent(1.0) for work_id in work_ids}, frozenset())

    part = Part()
    records = [RequestRecord(parts={part: True}) for _ in range(50)]
    known = await costs.costs(records)
    assert len(known) == len(part.asked) == 50


async def test_metrics_are_told_to_a_connection_that_names_work() -> None:
    @metered(Reader)
    class Counted:
        meter = CostMeter(Counters())

        async def metrics(self) -> bytes:
            return b"pages 1"

    assert await Counted().metrics(work_id="of a request that nobody measures") == b"pages 1"
