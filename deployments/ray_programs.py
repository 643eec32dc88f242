"""`python -m deployments.ray_programs PROGRAM ...`: run one of Ray's own programs so that it rests while nobody looks.

The dashboard keeps a process for each of its parts, and asks each once a second whether it lives; here a part starts with the
first request for it and ends after `PART_IDLE_S` without one. The log monitor looks for new lines ten times a second; here once.
"""

import asyncio
import contextlib
import runpy
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

PART_IDLE_S = 300.0
LOG_LOOK_S = 1.0
_CHECK_S = 10.0
_START_TIMEOUT_S = 30.0
_WRITE_S = 30.0
_WRITER = "NodeHead"
"""It writes down which node is the head, without which the part for jobs takes none."""


def main() -> None:
    """Change what the named program does while it waits, then run it as Ray would have."""
    program = sys.argv[1]
    RESTS[Path(program).name]()
    sys.argv = sys.argv[1:]
    runpy.run_path(program, run_name="__main__")


def rest_log_monitor() -> None:
    """Let the log monitor, which sleeps nowhere else, sleep longer between two looks at the log files."""
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(max(float(seconds), LOG_LOOK_S))


def rest_dashboard() -> None:
    """Let the parts of the dashboard run only while they are asked."""
    from ray.dashboard.head import DashboardHead
    from ray.dashboard.subprocesses.handle import SubprocessModuleHandle

    parts = PartsOnDemand(SubprocessModuleHandle.start_module, SubprocessModuleHandle.wait_for_module_ready)
    proxy = SubprocessModuleHandle.proxy_request
    record = DashboardHead._record_dashboard_metrics

    async def proxy_request(part: Any, *args: Any) -> Any:
        async with parts.running(part):
            return await proxy(part, *args)

    def begin(part: Any) -> None:
        if part.module_cls.__name__ == _WRITER:
            parts.begin(part)

    # They are called once for each part when the dashboard starts, and again when a part that runs has died.
    SubprocessModuleHandle.start_module = lambda part: None
    SubprocessModuleHandle.wait_for_module_ready = begin
    SubprocessModuleHandle.proxy_request = proxy_request
    # Its own figures only: it takes each part for a running process.
    DashboardHead._record_dashboard_metrics = lambda head, _parts: record(head, [])


class PartsOnDemand:
    """The parts of the dashboard that run, and those that could.

    Args:
        start: Starts the process of a part, without waiting.
        wait: Returns when the process is ready; blocking.
    """

    def __init__(self, start: Callable[[Any], None], wait: Callable[[Any], None], idle_s: float = PART_IDLE_S) -> None:
        self._start, self._wait, self._idle_s = start, wait, idle_s
        self._locks: dict[Any, asyncio.Lock] = {}
        self._requests: dict[Any, int] = {}
        self._used_s: dict[Any, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self, part: Any) -> AsyncIterator[None]:
        """Have the part running inside; one that has died is started again."""
        self._requests[part] = self._requests.get(part, 0) + 1
        try:
            # Whoever asked first may leave during the start; the next one finds it done.
            await asyncio.shield(self._spawn(self._start_if_needed(part)))
            yield
        finally:
            self._requests[part] -= 1
            self._used_s[part] = time.monotonic()

    def begin(self, part: Any) -> None:
        """Start a part that nobody has asked for; unless somebody does, it ends after `_WRITE_S`."""
        self._used_s[part] = time.monotonic() - self._idle_s + _WRITE_S
        self._spawn(self._start_if_needed(part))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _start_if_needed(self, part: Any) -> None:
        async with self._locks.setdefault(part, asyncio.Lock()):
            if part.process is not None and part.process.is_alive():
                return
            if part.process is not None:
                await part.destroy_module()
            self._start(part)
            # It is ready when it has written into the pipe; the rest of the wait does not block then.
            await asyncio.to_thread(part.parent_conn.poll, _START_TIMEOUT_S)
            self._wait(part)
            self._spawn(self._end_when_idle(part))

    async def _end_when_idle(self, part: Any) -> None:
        process = part.process
        while part.process is process:
            await asyncio.sleep(min(_CHECK_S, self._idle_s))
            async with self._locks[part]:
                idle_s = time.monotonic() - self._used_s.get(part, time.monotonic())
                if part.process is process and not self._requests.get(part) and idle_s >= self._idle_s:
                    await part.destroy_module()


RESTS = {"dashboard.py": rest_dashboard, "log_monitor.py": rest_log_monitor}
"""What is done to each program, by the name of its file."""


def rested(command: list[str]) -> list[str]:
    """Return the command of one of Ray's processes, through this module where it is one of `RESTS`."""
    at = next((index for index, word in enumerate(command) if Path(word).name in RESTS), None)
    return command if at is None else [*command[:at], "-m", __spec__.name, *command[at:]]


if __name__ == "__main__":
    main()
