"""A meter runs while there is something to measure, and what it tells adds up to what its counters say."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.usage.apportionment import Spent, TakenCosts
from aihub.usage.meter import CostMeter

PERIOD_S = 0.01


class FakeCounters:
    """Counters that a test turns."""

    def __init__(self) -> None:
        self.own_s = 100.0
        self.others = Spent(50.0, 20.0, 1000.0)
        self.reads = 0

    def own_cpu_s(self) -> float:
        return self.own_s

    def read_others(self) -> Spent:
        self.reads += 1
        return self.others

    def use(self, own_s: float = 0.0, cpu_s: float = 0.0, gpu_s: float = 0.0, joules: float = 0.0) -> None:
        self.own_s += own_s
        self.others = self.others.plus(Spent(cpu_s, gpu_s, joules))


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


class Bench:
    """A meter on fakes."""

    def __init__(self, read_work: Callable[[], Awaitable[Mapping[str, float]]] | None = None) -> None:
        self.counters = FakeCounters()
        self.meter = CostMeter(self.counters, read_work, period_s=PERIOD_S, clock=FakeClock())

    async def baseline(self) -> None:
        """Wait until the meter has read its counters once more."""
        reads = self.counters.reads
        async with asyncio.timeout(5):
            while self.counters.reads == reads:  # noqa: ASYNC110  # the meter has no event
                await asyncio.sleep(0.001)

    async def rest(self) -> None:
        async with asyncio.timeout(5):
            while self.meter.is_running:  # noqa: ASYNC110  # likewise
                await asyncio.sleep(0.001)

    async def cost(self, work_id: str) -> Spent:
        """Ask until it is known."""
        async with asyncio.timeout(5):
            while work_id not in (spent := (await self.meter.take([work_id])).spent):  # noqa: ASYNC110  # it is asked for
                await asyncio.sleep(0.001)
        return spent[work_id]


async def test_a_request_pays_for_what_was_used_while_it_was_alone() -> None:
    bench = Bench()
    with bench.meter.measured("a"):
        await bench.baseline()
        bench.counters.use(own_s=1.0, cpu_s=2.0, gpu_s=3.0, joules=4.0)
    assert await bench.cost("a") == pytest.approx(Spent(3.0, 3.0, 4.0))


async def test_what_is_used_at_rest_is_nobodys() -> None:
    bench = Bench()
    with bench.meter.measured("a"):
        await bench.baseline()
    await bench.rest()
    bench.counters.use(own_s=5.0, cpu_s=7.0)
    with bench.meter.measured("b"):
        await bench.baseline()
        bench.counters.use(own_s=1.0)
    assert (await bench.cost("b")).cpu_s == pytest.approx(1.0)
    assert bench.meter.unattributed.cpu_s == pytest.approx(12.0)


async def test_nothing_is_read_at_rest() -> None:
    bench = Bench()
    with bench.meter.measured("a"):
        await bench.baseline()
    await bench.rest()
    reads = bench.counters.reads
    await asyncio.sleep(5 * PERIOD_S)
    assert bench.counters.reads == reads
    assert len(asyncio.all_tasks()) == 1


async def test_a_request_that_is_cancelled_pays_too() -> None:
    bench = Bench()

    async def work() -> None:
        with bench.meter.measured("a"):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await bench.baseline()
    bench.counters.use(own_s=1.0, gpu_s=2.0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await bench.cost("a") == pytest.approx(Spent(1.0, 2.0, 0.0))


async def test_a_request_under_way_is_told_as_pending_and_its_cost_once() -> None:
    bench = Bench()
    share = bench.meter.begin("a")
    await bench.baseline()
    taken = await bench.meter.take(["a", "b"])
    assert (taken.spent, taken.pending) == ({}, {"a"})
    bench.meter.end(share)
    await bench.cost("a")
    assert await bench.meter.take(["a"]) == TakenCosts({}, frozenset())


async def test_work_that_the_engine_did_decides_who_pays() -> None:
    done = [{"long": 300.0, "short": 100.0}, {}]

    async def read_work() -> Mapping[str, float]:
        return done.pop(0) if done else {}

    bench = Bench(read_work)
    with bench.meter.measured("long"), bench.meter.measured("short"):
        await bench.baseline()
        bench.counters.use(gpu_s=4.0)
        await bench.baseline()
    assert (await bench.cost("long")).gpu_s == pytest.approx(3.0)
    assert (await bench.cost("short")).gpu_s == pytest.approx(1.0)


async def test_an_engine_that_dies_leaves_its_last_interval_to_those_in_flight() -> None:
    async def read_work() -> Mapping[str, float]:
        raise RuntimeError("the engine is dead")

    bench = Bench(read_work)
    with bench.meter.measured("a"):
        await bench.baseline()
        bench.counters.use(cpu_s=2.0)
    assert (await bench.cost("a")).cpu_s == pytest.approx(2.0)


STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["begin", "end", "pause"]), st.floats(0, 9)), max_size=30)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_costs_of_concurrent_requests_add_up_to_what_the_counters_counted(steps: list[tuple[str, str, float]]) -> None:
    asyncio.run(run_steps(steps))


async def run_steps(steps: list[tuple[str, str, float]]) -> None:
    bench = Bench()
    with bench.meter.measured("first"):
        await bench.baseline()
    await bench.rest()
    await bench.meter.take(["first"])
    own_s, others, before = bench.counters.own_s, bench.counters.others, bench.meter.unattributed
    shares = []
    for name, kind, amount in steps:
        bench.counters.use(amount, 2 * amount, 3 * amount, 4 * amount)
        if kind == "begin":
            shares.append(bench.meter.begin(name))
        elif kind == "end" and shares:
            bench.meter.end(shares.pop())
        else:
            await asyncio.sleep(PERIOD_S / 5)
    for share in shares:
        bench.meter.end(share)
    bench.meter.end(bench.meter.begin("last"))  # what was used at rest is seen when the rest is over
    await bench.rest()
    taken = await bench.meter.take([*"abc", "last"])
    assert not taken.pending
    used = Spent(cpu_s=bench.counters.own_s - own_s).plus(bench.counters.others.minus(others))
    costs = [*taken.spent.values(), bench.meter.unattributed.minus(before)]
    assert [math.fsum(parts) for parts in zip(*costs, strict=True)] == pytest.approx(list(used), rel=1e-9, abs=1e-6)
