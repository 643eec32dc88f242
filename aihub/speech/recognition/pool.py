"""The models that are loaded: one process each, started at first use and ended when nobody has listened for a while."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aihub.core.errors import UnavailableError
from aihub.speech.recognition.model_process import ModelProcess, start_model_process
from aihub.speech.recognition.options import RecogniserLimits, RecogniserOptions
from aihub.speech.recognition.recogniser import Recogniser


class RecogniserPool:
    """Opens recognisers of any model folder.

    Args:
        limits: Of each recogniser.
        rest_after_s: Seconds without a recogniser after which a model's process ends; it holds the model in memory.
        died: Told each death of a recogniser that nobody asked for, with its exit code.
    """

    def __init__(
        self,
        limits: RecogniserLimits | None = None,
        *,
        rest_after_s: float = 60.0,
        died: Callable[[int | None], None] = lambda _: None,
    ) -> None:
        self._limits = limits or RecogniserLimits()
        self._rest_after_s = rest_after_s
        self._died = died
        self._processes: dict[Path, ModelProcess] = {}
        self._starting: dict[Path, asyncio.Task[ModelProcess]] = {}
        # One thread, which lives as long as the pool: the processes end with the thread that started them.
        self._executor: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="aihub-speech")
        self._resting: asyncio.Task[None] | None = None

    async def open(self, folder: Path, options: RecogniserOptions) -> Recogniser:
        """Return a recogniser of the model in `folder`.

        Raises:
            ModelUnavailableError: The model does not load.
            InvalidRequestError: The model does not do what the options ask for.
            UnavailableError: No process can be had.
        """
        process = self._processes.get(folder)
        if process is None or not process.is_alive:
            process = await self._start(folder)
        return await process.open(options)

    def loaded(self) -> dict[Path, int]:
        """Return the process id of each loaded model."""
        return {folder: process.pid for folder, process in self._processes.items() if process.is_alive}

    @property
    def open_recognisers(self) -> int:
        """Recognisers in use, of all models."""
        return sum(process.open_recognisers for process in self._processes.values())

    async def close(self) -> None:
        """End all processes; requests that are under way fail."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        tasks = [*self._starting.values(), *([self._resting] if self._resting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        for process in self._processes.values():
            process.detach()
            await loop.run_in_executor(executor, process.stop)
        self._processes.clear()
        await asyncio.to_thread(executor.shutdown)

    async def _start(self, folder: Path) -> ModelProcess:
        """Start the model's process, once for all who ask meanwhile."""
        starting = self._starting.get(folder)
        if starting is None:
            starting = asyncio.create_task(self._start_one(folder))
            self._starting[folder] = starting
            starting.add_done_callback(lambda task: self._note_start(folder, task))
        # The others go on waiting when one of them leaves.
        return await asyncio.shield(starting)

    def _note_start(self, folder: Path, task: "asyncio.Task[ModelProcess]") -> None:
        self._starting.pop(folder, None)
        if not task.cancelled():
            task.exception()  # retrieved here where every caller has left

    async def _start_one(self, folder: Path) -> ModelProcess:
        if self._executor is None:
            raise UnavailableError("The speech service is being stopped.")
        old = self._processes.pop(folder, None)
        if old is not None:
            await asyncio.get_running_loop().run_in_executor(self._executor, old.stop)
        process = await start_model_process(folder, self._limits, died=self._died, executor=self._executor)
        self._processes[folder] = process
        if self._resting is None or self._resting.done():
            self._resting = asyncio.create_task(self._rest_when_idle())
        return process

    async def _rest_when_idle(self) -> None:
        """End the processes that nobody uses; ends itself with the last, so that an idle hub has no timer."""
        while self._processes:
            await asyncio.sleep(self._rest_after_s / 4)
            for folder, process in list(self._processes.items()):
                if self._processes.get(folder) is not process:
                    continue  # replaced while another one was being stopped
                is_idle = process.open_recognisers == 0 and time.monotonic() - process.used_s >= self._rest_after_s
                if (is_idle or not process.is_alive) and self._executor is not None:
                    del self._processes[folder]
                    process.detach()
                    await asyncio.get_running_loop().run_in_executor(self._executor, process.stop)
