"""Nothing reaches a sleeping engine, whatever happens at the same time."""

import asyncio
from types import SimpleNamespace

import pytest

from aihub.core.errors import ModelUnavailableError
from deployments.engine_state import (
    EngineCannotStartError,
    EngineSleep,
    EngineStartError,
    can_pass,
    engine_error,
    innermost_cause,
    reason_of,
)

RAY_WRAPPED = """A replica failed to start with exception. Retrying 1 more time(s). Error:
ray::ServeReplica:llm-a:LLM.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
RuntimeError: Traceback (most recent call last):
  File "llm.py", line 1, in __init__
ValueError: Cannot schedule RayWorkerProc

The above exception was the direct cause of the following exception:

deployments.engine_state.{name}: ValueError: Cannot schedule RayWorkerProc with the placement group
"""
PENDING = (
    "Deployment 'LLM:a' in application 'llm-a' has 1 replicas that have taken more than 30s to be scheduled. "
    "Resources required for each replica: {'GPU': 0.01}, total resources available: {'CPU': 8.0}."
)


def application(*messages: str, status: str = "DEPLOY_FAILED") -> SimpleNamespace:
    own, *others = messages
    deployments = {str(index): SimpleNamespace(message=message) for index, message in enumerate(others)}
    return SimpleNamespace(status=status, message=own, deployments=deployments)


def test_reason_is_the_engines_own_and_not_serves_summary() -> None:
    told = RAY_WRAPPED.format(name="EngineCannotStartError")
    failed = application("Failed to update the deployments ['LLM:a'].", told)
    assert reason_of(failed) == "ValueError: Cannot schedule RayWorkerProc with the placement group"


def test_reason_of_a_foreign_replica_is_its_last_error() -> None:
    told = "Error:\nray.exceptions.RayTaskError(RuntimeError): x\nRuntimeError: Traceback\nValueError: no such table"
    assert reason_of(application("Failed to update the deployments ['Hub'].", told)) == "ValueError: no such table"


def test_reason_without_any_error_is_the_last_line_and_never_empty() -> None:
    assert reason_of(application("one\ntwo", "")) == "two"
    assert reason_of(application("", "")) == "Serve gives no reason"
    assert innermost_cause("nothing wrong") is None


@pytest.mark.parametrize("kind", ["ValueError", "FileNotFoundError", "torch.OutOfMemoryError", "NotImplementedError"])
def test_error_of_the_model_itself_cannot_pass(kind: str) -> None:
    error = engine_error(f"{kind}: x")
    assert type(error) is EngineCannotStartError
    assert not can_pass(f"deployments.engine_state.{type(error).__name__}: {error}")


@pytest.mark.parametrize("cause", ["TimeoutError: x", "OSError: x", "RuntimeError: Engine core died"])
def test_error_of_the_moment_may_pass(cause: str) -> None:
    error = engine_error(cause)
    assert type(error) is EngineStartError
    assert can_pass(f"deployments.engine_state.{type(error).__name__}: {error}")


def test_replica_that_no_node_can_hold_does_not_wait_for_ever() -> None:
    assert not can_pass(PENDING)
    assert "GPU" in reason_of(application("", PENDING))


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
