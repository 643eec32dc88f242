"""An event loop whose clock jumps to the next timer: minutes of waiting take milliseconds, and a deadlock is an error."""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    now_s = 1000.0
    threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.threads:
            return super().select(None if timeout is None or timeout > 0 else 0)
        if timeout is None:
            raise RuntimeError("Deadlock: every task waits, and there is nothing to wait for.")
        self.now_s += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Threads run in real time; the clock stands still meanwhile."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        self._jumping.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(lambda _: self._end_thread())
        return future

    async def shutdown_default_executor(self) -> None:
        self._jumping.threads += 1  # it waits in a thread of its own
        await super().shutdown_default_executor()

    def _end_thread(self) -> None:
        self._jumping.threads -= 1


def now_s() -> float:
    return asyncio.get_running_loop().time()
