import asyncio
import threading

import pytest

from aihub.core.concurrency import run_to_end


async def test_a_cancelled_caller_goes_on_only_when_its_thread_has_ended() -> None:
    has_begun, may_end, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        has_begun.set()
        may_end.wait(10)
        ended.append(True)

    task = asyncio.create_task(run_to_end(work))
    await asyncio.to_thread(has_begun.wait)
    task.cancel()
    await asyncio.sleep(0.02)
    task.cancel()  # once more, while it waits
    await asyncio.sleep(0.02)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_results_and_failures_are_those_of_the_work(caplog: pytest.LogCaptureFixture) -> None:
    assert await run_to_end(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_to_end(divmod, 7, 0)


async def test_the_failure_of_a_cancelled_caller_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def work() -> None:
        has_begun.set()
        may_end.wait(10)
        raise OSError("the disk is full")

    task = asyncio.create_task(run_to_end(work))
    await asyncio.to_thread(has_begun.wait)
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "the disk is full" in caplog.text
