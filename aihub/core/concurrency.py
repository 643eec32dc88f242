"""Work in threads that must not go on behind the back of who asked for it, and a limit on how much goes on at a time."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def raise_if_cancelled() -> None:
    """Go on with the cancellation of this task where a library has swallowed it, for loops that only that ends.

    Python 3.11's `asyncio.wait_for`, which psycopg waits by, loses one that comes together with what is waited for.

    Raises:
        CancelledError: Somebody has cancelled this task.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def run_to_end(work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """Run blocking work in a thread; a cancelled caller is held until the thread has ended.

    `asyncio.to_thread` returns at once when cancelled and leaves its thread running: what the caller then does with the same
    file, lock or index happens at the same time as the thread's work, or a second time.

    Raises:
        asyncio.CancelledError: The caller was cancelled; the work has been done, or its failure is in the log.
        Exception: Whatever `work` raises.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled = await wait_to_end(thread)
    if cancelled is None:
        return thread.result()
    if (failure := thread.exception()) is not None:
        logger.warning("Work of a cancelled caller failed: %r", failure)
    raise cancelled


async def complete(work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work` in a task of its own; a cancelled caller is held until it has ended.

    For what gives something back: a caller that is being cancelled may be cancelled again, which would end its cleanup half-way.

    Raises:
        asyncio.CancelledError: The caller was cancelled; the work has been done, or its failure is in the log.
        Exception: Whatever `work` raises.
    """
    task = asyncio.ensure_future(work)
    cancelled = await wait_to_end(task)
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (failure := task.exception()) is not None:
        logger.warning("Work of a cancelled caller failed: %r", failure)
    raise cancelled


async def cancel(task: "asyncio.Future[Any]") -> None:
    """Cancel a task once and wait until it has ended, whatever it came to; a cancelled caller is held meanwhile."""
    task.cancel()
    cancelled = await wait_to_end(task)
    if not task.cancelled():
        task.exception()  # retrieved, as nobody else may look
    if cancelled is not None:
        raise cancelled


async def wait_to_end(work: "asyncio.Future[Result]") -> asyncio.CancelledError | None:
    """Wait until `work` is done, whatever it came to; a cancellation meanwhile is returned, to be raised later."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


class ResizableSemaphore:
    """An async context manager that is inside at most `limit` times at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def resize(self, limit: int) -> None:
        """Let `limit` in from now on; those who are inside stay."""
        self._limit = limit
        self._admit()

    async def __aenter__(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()
            elif turn in self._waiting:  # `_admit` may have come by since it was cancelled
                self._waiting.remove(turn)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        self._taken -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._taken < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
