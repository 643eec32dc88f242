"""The limited process itself: a launcher that loads libraries once and forks the child that sees untrusted input.

A used or dead child is replaced in milliseconds. Frames: first the setup, answered by `ready` or `failed`; then requests of the
hub and answers of the child, one after the other. When the child dies at work, the launcher says so (`died`). Both give up what
`confinement` lists, and the child limits its memory and time, before they see a request (Linux).
"""

import gc
import logging
import mmap
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from aihub.core.errors import HubError
from aihub.core.sandbox.confinement import confine, confine_signals
from aihub.core.sandbox.frames import EXIT_MEMORY, BrokenFrameError, Frame, FramePipe
from aihub.core.sandbox.limits import (
    ProcessLimits,
    address_space_bytes,
    die_with_parent,
    forbid_core_dumps,
    limit_cpu,
    limit_memory,
)

CONTINUES = "continues"
"""Key in the header of every frame of an answer but the last."""


_EXIT_RECYCLE = 87
_WORKING = 1
_KEPT_SHARE = 4
"""A child that keeps more than 1/4 of the memory of a request after it is replaced, so that the next one gets it."""

logger = logging.getLogger(__name__)


class Channel:
    """To the hub, for the time of a request.

    Args:
        stage: One byte shared with the launcher: `_WORKING` while no frame is under way and an answer is expected.
    """

    def __init__(self, pipe: FramePipe, stage: mmap.mmap) -> None:
        self._pipe = pipe
        self._stage = stage

    def send(self, frame: Frame) -> None:
        """Send a frame of the answer: all but the last with `CONTINUES`. Waits until the hub reads it."""
        self._stage[0] = 0
        self._pipe.send(frame)
        if frame.header.get(CONTINUES):
            self._stage[0] = _WORKING

    def receive(self) -> Frame:
        """Read more of the request, after a frame that asked the hub for it."""
        self._stage[0] = 0
        piece = self._pipe.receive()
        if piece is None:
            raise BrokenFrameError("the hub is gone")
        self._stage[0] = _WORKING
        return piece


Answer = Callable[[Frame, Channel], None]
"""Answers a request by at least one frame. What it raises ends the child."""


class _Child:
    """Answers requests one after the other until told to stop, worn out, or over a limit.

    Args:
        pipe: To the hub.
        stage: As for `Channel`.
    """

    def __init__(self, pipe: FramePipe, stage: mmap.mmap, answer: Answer, limits: ProcessLimits) -> None:
        self._pipe = pipe
        self._stage = stage
        self._channel = Channel(pipe, stage)
        self._answer = answer
        self._limits = limits

    def run(self, launcher_pid: int) -> NoReturn:
        """Serve and exit; a failed allocation leaves no state to trust, so it ends the process."""
        try:
            die_with_parent(launcher_pid, signal.SIGKILL)
            with suppress(OSError):  # the launcher has warned that there are no filters
                confine_signals()
            status = self._serve()
        except MemoryError:
            status = EXIT_MEMORY
        except BrokenFrameError:
            status = 0
        except BaseException:
            logger.exception("a limited process failed")
            status = 1
        os._exit(status)

    def _serve(self) -> int:
        before = address_space_bytes()
        limit_memory(self._limits.memory_mb)
        for _ in range(self._limits.recycle_after):
            request = self._pipe.receive()
            if request is None:
                return 0
            limit_cpu(self._limits.cpu_s)
            self._stage[0] = _WORKING
            self._answer(request, self._channel)
            del request
            if (address_space_bytes() - before) * _KEPT_SHARE > self._limits.memory_mb * 2**20:
                break
        return _EXIT_RECYCLE


class _Launcher:
    """Keeps one child alive, and ends the way it ended when the pipe may have been left in the middle of a frame."""

    def __init__(self, pipe: FramePipe, stage: mmap.mmap, child: _Child) -> None:
        self._pipe = pipe
        self._stage = stage
        self._child = child
        self._child_pid = 0

    def run(self) -> NoReturn:
        signal.signal(signal.SIGTERM, self._stop)
        gc.freeze()
        while True:
            self._fork()
            _, status = os.waitpid(self._child_pid, 0)
            self._child_pid = 0
            code = os.waitstatus_to_exitcode(status)
            if self._stage[0] == _WORKING:
                self._stage[0] = 0
                self._pipe.send(Frame({"died": code}))
            elif code != _EXIT_RECYCLE:
                _end_with(code)

    def _fork(self) -> None:
        launcher_pid = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._child_pid = os.fork()
        if self._child_pid == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            self._child.run(launcher_pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _stop(self, _signum: int, _frame: FrameType | None) -> None:
        # The hub asks, and the kernel when the hub's thread is gone: once is enough.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Reap the child: an orphan would stay a zombie where process 1 does not collect.
        with suppress(ProcessLookupError, ChildProcessError):
            if self._child_pid:
                os.kill(self._child_pid, signal.SIGKILL)
                os.waitpid(self._child_pid, 0)
        os._exit(0)


def _end_with(code: int) -> NoReturn:
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


def run_launcher(load: Callable[[dict[str, Any]], Answer]) -> NoReturn:
    """Run until the hub closes the pipe or dies; the `main` of the module that a `SandboxProgram` names.

    Args:
        load: Gets the program's options and loads what all children share, without starting threads. `HubError` and
            `OSError` that it raises reach the hub as `ConfigurationError`.
    """
    pipe = FramePipe(0, os.dup(1))
    os.dup2(2, 1)  # whatever a library prints must not end up between frames
    logging.basicConfig(level=logging.WARNING)
    forbid_core_dumps()
    setup = pipe.receive()
    if setup is None:
        sys.exit(0)
    die_with_parent(setup.header["parent_pid"], signal.SIGTERM)
    try:
        answer = load(setup.header["options"])
    except (HubError, OSError) as error:
        pipe.send(Frame({"failed": str(error)}))
        sys.exit(1)
    try:
        confine()
    except OSError as error:
        logger.warning("Untrusted input is read without a filter of system calls: %s", error)
    pipe.send(Frame({"ready": True}))
    stage = mmap.mmap(-1, 1)
    _Launcher(pipe, stage, _Child(pipe, stage, answer, ProcessLimits(**setup.header["limits"]))).run()
