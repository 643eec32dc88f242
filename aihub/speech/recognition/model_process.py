"""The process that has one model loaded, as the hub sees it: started once, asked for recognisers, ended when nobody listens."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from aihub.core.errors import ModelUnavailableError, UnavailableError
from aihub.core.sandbox.process import child_environment
from aihub.speech.recognition.options import RecogniserLimits, RecogniserOptions
from aihub.speech.recognition.recogniser import Recogniser

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 2.0
_MAX_PACKET_BYTES = 65536
_LONGEST_REASON_CHARS = 300


class ModelProcess:
    """A launcher process. All methods belong to the event loop that started it; make it with `start_model_process`.

    Args:
        process: The launcher, which has loaded its model.
        control: Its control socket.
        limits: Of each recogniser.
        died: Told each death that nobody asked for.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        control: socket.socket,
        limits: RecogniserLimits,
        died: Callable[[int | None], None],
    ) -> None:
        self._process = process
        self._control = control
        self._limits = limits
        self._died = died
        self._most_idle = os.cpu_count() or 1
        self._numbers = count(1)
        self._recognisers: dict[int, Recogniser] = {}
        self._killed: set[int] = set()
        self._is_alive = True
        self._idle: list[int] = []
        self.used_s = time.monotonic()
        self._loop = asyncio.get_running_loop()
        control.setblocking(False)
        self._loop.add_reader(control.fileno(), self._read_reports)

    @property
    def is_alive(self) -> bool:
        """Whether it takes orders."""
        return self._is_alive

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self._process.pid

    @property
    def open_recognisers(self) -> int:
        """Recognisers in use."""
        return len(self._recognisers.keys() - set(self._idle) - self._killed)

    async def open(self, options: RecogniserOptions) -> Recogniser:
        """Return a recogniser that listens; raises as `Recogniser.open`."""
        self.used_s = time.monotonic()
        number = self._idle.pop() if self._idle else self._fork()
        recogniser = self._recognisers[number]
        try:
            await recogniser.open(options)
            if not self._idle:
                self._idle.append(self._fork())  # for the next caller
        except BaseException:
            recogniser.close()
            raise
        return recogniser

    def _fork(self) -> int:
        """Order a process and return its number.

        Raises:
            UnavailableError: The launcher takes no orders.
        """
        number = next(self._numbers)
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._control, [json.dumps({"fork": number}).encode()], [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise UnavailableError("The speech recogniser takes no more audio now. Retry in a few seconds.") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self._recognisers[number] = Recogniser(ours, self._limits, partial(self._release, number))
        return number

    def _release(self, number: int, is_fresh: bool) -> None:
        self.used_s = time.monotonic()
        if is_fresh and len(self._idle) < self._most_idle:
            self._idle.append(number)
        elif number in self._recognisers:
            self._kill(number)

    def _kill(self, number: int) -> None:
        self._killed.add(number)
        self._recognisers[number].disconnect()
        # A launcher that reads no orders is dead or about to be found so; its processes die with it.
        with suppress(OSError):
            self._control.send(json.dumps({"kill": number}).encode())

    def _read_reports(self) -> None:
        while True:
            try:
                packet = self._control.recv(_MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                packet = b""
            if not packet:
                self._lose_all()
                return
            report = json.loads(packet)
            self._end(report["ended"], report["exit_code"])

    def _end(self, number: int, exit_code: int | None) -> None:
        recogniser = self._recognisers.pop(number)
        was_asked = number in self._killed or exit_code == 0
        self._killed.discard(number)
        if number in self._idle:
            self._idle.remove(number)
        if not was_asked:
            logger.warning("A speech recogniser ended with %s.", exit_code)
            self._died(exit_code)
        recogniser.ended.set_result(exit_code)
        recogniser.disconnect()

    def _lose_all(self) -> None:
        if not self._is_alive:
            return
        self._is_alive = False
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        if self.open_recognisers:
            logger.warning("The process of a speech model ended with %d recognisers at work.", self.open_recognisers)
        self._killed.update(self._idle)
        for number in list(self._recognisers):
            self._end(number, None)

    def stop(self) -> None:
        """End the process and its recognisers, and wait until they are gone; blocking, call `detach` before."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def detach(self) -> None:
        """Take no more reports; requests that are under way fail."""
        self._killed.update(self._recognisers)
        self._lose_all()


async def start_model_process(
    folder: Path, limits: RecogniserLimits, *, died: Callable[[int | None], None], executor: Executor
) -> ModelProcess:
    """Start a launcher and wait until it has loaded its model.

    Args:
        folder: Of the model.
        limits: Of each recogniser.
        died: Told each death that nobody asked for.
        executor: Starts it on a thread that lives on: the kernel ends the process with the thread that made it.

    Raises:
        ModelUnavailableError: The model does not load; the log has Kaldi's reason.
        UnavailableError: The machine starts no more processes.
    """
    loop = asyncio.get_running_loop()
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.setblocking(False)
    starting = loop.run_in_executor(executor, _start, theirs)
    try:
        process = await asyncio.shield(starting)
    except BaseException:
        control.close()  # which ends the process where it was started all the same
        raise
    try:
        setup = {"parent_pid": os.getpid(), "model_folder": str(folder), "limits": asdict(limits)}
        await loop.sock_sendall(control, json.dumps(setup).encode())
        async with asyncio.timeout(START_TIMEOUT_S):
            answer = await _first_report(loop, control)
    except BaseException as error:
        control.close()
        process.kill()
        await loop.run_in_executor(executor, process.wait)
        if isinstance(error, TimeoutError):
            raise ModelUnavailableError(f"The speech model did not load within {START_TIMEOUT_S:.0f} s.") from error
        raise
    if "ready" not in answer:
        control.close()
        await loop.run_in_executor(executor, process.wait)
        reason = answer.get("failed", f"its process ended with {process.returncode}")
        logger.error("The speech model in %s does not load: %s", folder, reason)
        raise ModelUnavailableError(
            f"The speech model {folder.name} does not load: {reason[:_LONGEST_REASON_CHARS]} Install it again: "
            "`aihub models validate` says which files are damaged."
        )
    return ModelProcess(process, control, limits, died)


def _start(control: socket.socket) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", "aihub.speech.recognition.launcher", str(control.fileno())]
    try:
        # Its own session: Ctrl-C on the terminal is the hub's business. No secrets in its environment.
        return subprocess.Popen(  # noqa: S603  # fixed arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            start_new_session=True,
            env=child_environment(),
            pass_fds=(control.fileno(),),
        )
    except OSError as error:
        raise UnavailableError(f"Cannot start the process of a speech model: {error}.") from error
    finally:
        control.close()


async def _first_report(loop: asyncio.AbstractEventLoop, control: socket.socket) -> dict[str, Any]:
    packet = await loop.sock_recv(control, _MAX_PACKET_BYTES)
    report: dict[str, Any] = json.loads(packet) if packet else {}
    return report
