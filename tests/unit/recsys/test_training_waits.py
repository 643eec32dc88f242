import asyncio
from collections.abc import AsyncIterator, Collection

import pytest

from aihub.core.errors import StorageUnavailableError
from aihub.recsys import training_jobs
from aihub.recsys.training_jobs import Key, TrainingWaits


class Log:
    """Trainings of which some have ended; counts how often it is asked."""

    def __init__(self) -> None:
        self.ended: set[Key] = set()
        self.asked: list[set[Key]] = []
        self.error: Exception | None = None

    async def find_ended(self, keys: Collection[Key]) -> Collection[Key]:
        self.asked.append(set(keys))
        if self.error is not None:
            raise self.error
        return self.ended & set(keys)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr(training_jobs, "WAIT_PERIOD_S", 0.05)
    return Log()


@pytest.fixture
async def waits(log: Log) -> AsyncIterator[TrainingWaits]:
    made = TrainingWaits(log.find_ended)
    yield made
    await made.close()


async def test_any_number_of_waiters_cost_one_look_in_a_period(waits: TrainingWaits, log: Log) -> None:
    waiting = [asyncio.create_task(waits.wait("a", f"train-{number % 10}")) for number in range(50)]
    await asyncio.sleep(0.52)
    assert 5 <= len(log.asked) <= 12
    assert all(len(keys) == 10 for keys in log.asked)
    log.ended = {("a", f"train-{number}") for number in range(10)}
    await asyncio.wait_for(asyncio.gather(*waiting), 2)


async def test_each_waits_for_its_own_training_and_tenant(waits: TrainingWaits, log: Log) -> None:
    first, foreign, second = (asyncio.create_task(waits.wait(*key)) for key in (("a", "1"), ("b", "1"), ("a", "2")))
    log.ended = {("a", "1")}
    await asyncio.wait_for(first, 2)
    await asyncio.sleep(0.1)
    assert not foreign.done()
    assert not second.done()
    log.ended |= {("b", "1"), ("a", "2")}
    await asyncio.wait_for(asyncio.gather(foreign, second), 2)


async def test_nobody_is_asked_when_nobody_waits_any_more(waits: TrainingWaits, log: Log) -> None:
    waiting = asyncio.create_task(waits.wait("a", "1"))
    await asyncio.sleep(0.02)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await asyncio.sleep(0.1)
    count = len(log.asked)
    await asyncio.sleep(0.2)
    assert len(log.asked) == count
    log.ended = {("a", "2")}
    await asyncio.wait_for(waits.wait("a", "2"), 2)  # and it begins again


async def test_a_short_outage_is_waited_out(waits: TrainingWaits, log: Log) -> None:
    log.error = StorageUnavailableError("away")
    waiting = asyncio.create_task(waits.wait("a", "1"))
    await asyncio.sleep(0.15)
    assert not waiting.done()
    log.error, log.ended = None, {("a", "1")}
    await asyncio.wait_for(waiting, 2)


async def test_a_long_outage_is_told(waits: TrainingWaits, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_jobs, "OUTAGE_PATIENCE_S", 0.1)
    log.error = StorageUnavailableError("away")
    with pytest.raises(StorageUnavailableError):
        await asyncio.wait_for(waits.wait("a", "1"), 2)


async def test_a_bug_is_told_and_not_waited_for(waits: TrainingWaits, log: Log) -> None:
    log.error = KeyError("bug")
    with pytest.raises(KeyError):
        await asyncio.wait_for(waits.wait("a", "1"), 2)
