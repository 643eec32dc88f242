"""Nothing reaches a sleeping engine, whatever happens at the same time."""

import asyncio

import pytest

from aihub.core.errors import ModelUnavailableError
from deployments.engine_sleep import EngineSleep


class Engine:
    """Takes a moment to change; counts what it was asked while it was not awake."""

    def __init__(self) -> None:
        self.is_awake = True
        self.wakes_wholly = True
        self.asked = self.queued_silently = 0
        self.failure: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def put_to_sleep(self) -> None:
        self.is_awake = False
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure

    async def wake(self) -> bool:
        await self.go_on.wait()
        self.is_awake = self.wakes_wholly
        return self.wakes_wholly

    async def answer_canary(self) -> None:
        self.asked += 1
        await asyncio.sleep(0.01)
        self.queued_silently += not self.is_awake


@pytest.fixture
async def engine() -> Engine:
    return Engine()


@pytest.fixture
def sleep(engine: Engine) -> EngineSleep:
    return EngineSleep(engine.put_to_sleep, engine.wake)


async def test_sleeping_engine_refuses_requests_and_takes_them_again_when_awake(sleep: EngineSleep) -> None:
    await sleep.sleep()
    assert await sleep.is_sleeping()
    with pytest.raises(ModelUnavailableError, match="sleeps") as refused:
        sleep.require_awake()
    assert refused.value.retry_after_s == 1
    await sleep.wake()
    assert not await sleep.is_sleeping()
    sleep.require_awake()


async def test_requests_are_refused_while_the_engine_falls_asleep_and_while_it_wakes(sleep: EngineSleep, engine: Engine) -> None:
    for change in (sleep.sleep, sleep.wake):
        engine.go_on.clear()
        changing = asyncio.create_task(change())
        await asyncio.sleep(0)
        with pytest.raises(ModelUnavailableError):
            sleep.require_awake()
        engine.go_on.set()
        await changing


async def test_sleeping_engine_is_not_checked_and_an_awake_one_is(sleep: EngineSleep, engine: Engine) -> None:
    await sleep.check_awake(engine.answer_canary)
    await sleep.sleep()
    await sleep.check_awake(engine.answer_canary)
    assert (engine.asked, engine.queued_silently) == (1, 0)


async def test_check_under_way_ends_before_the_engine_falls_asleep(sleep: EngineSleep, engine: Engine) -> None:
    check = asyncio.create_task(sleep.check_awake(engine.answer_canary))
    await asyncio.sleep(0)
    await sleep.sleep()
    await check
    assert (engine.asked, engine.queued_silently) == (1, 0)


async def test_check_during_a_change_is_left_out_and_never_waits(sleep: EngineSleep, engine: Engine) -> None:
    engine.go_on.clear()
    changing = asyncio.create_task(sleep.sleep())
    await asyncio.sleep(0)
    async with asyncio.timeout(1.0):
        await sleep.check_awake(engine.answer_canary)
    engine.go_on.set()
    await changing
    assert engine.asked == 0


async def test_who_asks_during_a_change_hears_its_end(sleep: EngineSleep, engine: Engine) -> None:
    engine.go_on.clear()
    changing = asyncio.create_task(sleep.sleep())
    await asyncio.sleep(0)
    question = asyncio.create_task(sleep.is_sleeping())
    await asyncio.sleep(0)
    assert not question.done()
    engine.go_on.set()
    await changing
    assert await question


@pytest.mark.parametrize("cut", ["failure", "cancel"])
async def test_engine_that_did_not_fall_asleep_wholly_gets_no_requests(sleep: EngineSleep, engine: Engine, cut: str) -> None:
    if cut == "failure":
        engine.failure = ValueError("no pinned memory")
        with pytest.raises(ValueError, match="pinned"):
            await sleep.sleep()
    else:
        engine.go_on.clear()
        changing = asyncio.create_task(sleep.sleep())
        await asyncio.sleep(0)
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
    with pytest.raises(ModelUnavailableError):
        sleep.require_awake()
    assert await sleep.is_sleeping()


async def test_engine_that_is_not_wholly_awake_stays_asleep(sleep: EngineSleep, engine: Engine) -> None:
    await sleep.sleep()
    engine.wakes_wholly = False
    with pytest.raises(ModelUnavailableError, match="wholly awake"):
        await sleep.wake()
    assert await sleep.is_sleeping()
