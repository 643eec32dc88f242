"""`ProcessPool`: limited processes that are started when somebody asks, and ended when nobody has asked for a while."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aihub.core.concurrency import ResizableSemaphore, run_to_end, wait_to_end
from aihub.core.errors import OverloadedError, UnavailableError
from aihub.core.sandbox.frames import Frame
from aihub.core.sandbox.launcher import CONTINUES
from aihub.core.sandbox.process import ProcessDiedError, ProcessTimeoutError, SandboxProcess, SandboxProgram

Result = TypeVar("Result")


class ProcessSession:
    """A process for the time of one request; made by `ProcessPool.session`. One coroutine at a time may use it.

    A process that died or was ended is replaced by the next `exchange`.
    """

    def __init__(self, program: SandboxProgram, executor: ThreadPoolExecutor, process: SandboxProcess | None) -> None:
        self._program = program
        self._executor = executor
        self._process = process
        self._lock = threading.Lock()
        self._abandoned = False
        self._is_answering = False

    async def exchange(self, request: Frame, timeout_s: float) -> Frame:
        """Send a request, or a piece that the process asked for, and return the next frame of the answer.

        Raises:
            ProcessTimeoutError: It took longer than `timeout_s`; the process is gone. Starting one does not count.
            ProcessDiedError: The process ended first.
            ConfigurationError: A new process cannot work.
            UnavailableError: The pool is closed, or the machine starts no more processes.
        """
        is_first = not self._is_answering
        return await self._run(lambda: (self._living() if is_first else self._same()).exchange(request, timeout_s))

    async def receive(self, timeout_s: float) -> Frame:
        """Return the next frame of an answer whose last frame had `launcher.CONTINUES`; raises as `exchange`."""
        return await self._run(lambda: self._same().receive(timeout_s))

    async def start(self) -> None:
        """Have a process ready; raises as `exchange`."""
        await self._run(self._living)

    async def _run(self, step: Callable[[], Result]) -> Result:
        """Run a blocking step on a thread; a cancelled caller gets back when the process it used is gone."""
        if self._abandoned:
            raise UnavailableError(f"The {self._program.name} was closed.")
        self._is_answering = True
        thread = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._executor, step))
        try:
            result = await asyncio.shield(thread)
        except asyncio.CancelledError:
            self.abandon()
            await wait_to_end(thread)
            if not thread.cancelled():
                thread.exception()  # of a process that was killed; asyncio would log that nobody looked
            raise
        except Exception as error:
            if self._abandoned:
                raise UnavailableError(f"The {self._program.name} was closed.") from error
            # A launcher that lives on has a new child, which is at rest.
            self._is_answering = not isinstance(error, ProcessDiedError | ProcessTimeoutError)
            raise
        self._is_answering = isinstance(result, Frame) and bool(result.header.get(CONTINUES))
        return result

    def _living(self) -> SandboxProcess:
        """Blocking: the process, or a new one in its place."""
        process = self._process
        if process is not None and process.is_alive:
            return process
        if process is not None:
            process.stop()
        with self._lock:
            if self._abandoned:
                raise UnavailableError(f"The {self._program.name} was closed.")
            self._process = process = SandboxProcess(self._program)
        process.set_up()
        return process

    def _same(self) -> SandboxProcess:
        if self._process is None:
            raise UnavailableError(f"The {self._program.name} was closed.")
        return self._process

    @property
    def is_clean(self) -> bool:
        """Whether the next request can have the process as it is."""
        return not self._abandoned and not self._is_answering and (self._process is None or self._process.is_alive)

    def abandon(self) -> None:
        """End the process now; a step that waits for it fails."""
        with self._lock:
            self._abandoned = True
            if self._process is not None:
                self._process.kill()

    def release(self) -> SandboxProcess | None:
        """Give the process up; its user sees to its end where it is not clean."""
        with self._lock:
            process, self._process = self._process, None
        return process


class ProcessPool:
    """Up to `size` limited processes of one program.

    Args:
        program: What they run.
        size: Requests worked on at the same time; more wait in order.
        rest_after_s: Seconds without a request after which the processes end. The next request starts one.
        max_waiting: Requests that may wait; `OverloadedError` for more.
    """

    def __init__(self, program: SandboxProgram, size: int, *, rest_after_s: float = 30.0, max_waiting: int | None = None) -> None:
        self._program = program
        self._size = size
        self._rest_after_s = rest_after_s
        self._max_waiting = max_waiting
        self._places = ResizableSemaphore(size)
        self._executor: ThreadPoolExecutor | None = None
        self._idle: list[SandboxProcess] = []
        self._sessions: set[ProcessSession] = set()
        self._waiting = 0
        self._used_s = 0.0
        self._rest: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Start all processes and wait until they are ready. Not needed: a request starts what it uses.

        Raises:
            ConfigurationError: A process cannot work.
            UnavailableError: The machine starts no more processes.
        """
        self._closed = False
        async with contextlib.AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(self.session()) for _ in range(self._size)]
            started = await asyncio.gather(*(session.start() for session in sessions), return_exceptions=True)
        for outcome in started:
            if outcome is not None:
                await self.close()
                raise outcome

    async def close(self) -> None:
        """End all processes, for good until `start`; requests under way fail with UnavailableError."""
        self._closed = True
        if self._rest is not None:
            self._rest.cancel()
            await wait_to_end(self._rest)
        for session in list(self._sessions):
            session.abandon()
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)
        idle, self._idle = self._idle, []
        await run_to_end(_stop_all, idle)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[ProcessSession]:
        """Have a process for one request, after those who came before.

        Leaving in the middle of an answer, or cancelled, ends the process at once.

        Raises:
            OverloadedError: Too many wait.
            UnavailableError: The pool is closed.
        """
        if self._max_waiting is not None and self._waiting >= self._max_waiting:
            raise OverloadedError(f"Too many requests wait for the {self._program.name}; try again.")
        self._waiting += 1
        try:
            await self._places.__aenter__()
        finally:
            self._waiting -= 1
        try:
            session = self._new_session()
            try:
                yield session
            finally:
                await self._take_back(session)
        finally:
            await self._places.__aexit__(None, None, None)

    def _new_session(self) -> ProcessSession:
        if self._closed:
            raise UnavailableError(f"The {self._program.name} is not running.")
        if self._executor is None:
            # Threads, not asyncio's subprocesses: they work under any event loop, and answers are decoded off the loop.
            self._executor = ThreadPoolExecutor(self._size, thread_name_prefix=f"aihub-{self._program.name.replace(' ', '-')}")
        session = ProcessSession(self._program, self._executor, self._idle.pop() if self._idle else None)
        self._sessions.add(session)
        return session

    async def _take_back(self, session: ProcessSession) -> None:
        is_clean, process = session.is_clean and not self._closed, session.release()
        self._sessions.discard(session)
        if process is not None and not is_clean:
            await run_to_end(process.stop)
        elif process is not None:
            self._idle.append(process)
            self._used_s = time.monotonic()
            if self._rest is None or self._rest.done():
                self._rest = asyncio.create_task(self._rest_when_idle())

    async def _rest_when_idle(self) -> None:
        """End the processes when nobody has asked for long; ends itself then, so that an idle hub has not even a timer."""
        while self._idle or self._sessions:
            left_s = self._used_s + self._rest_after_s - time.monotonic()
            if left_s > 0 or self._sessions:
                await asyncio.sleep(max(left_s, self._rest_after_s / 4))
                continue
            idle, self._idle = self._idle, []
            await run_to_end(_stop_all, idle)


def _stop_all(processes: list[SandboxProcess]) -> None:
    for process in processes:
        process.stop()
