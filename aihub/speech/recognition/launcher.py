"""The process of one model: `python -m aihub.speech.recognition.launcher FD`, started by `model_process` beside it.

It loads the model once and forks a process for each recogniser, which shares its memory; what Kaldi aborts or leaks stays there.
Over the control socket, one JSON object a packet: first the setup, answered by `ready` or `failed`; then `fork` with the socket
of the new process, and `kill`; each process's end is told as `ended`. Sockets, programs and changes of files are given up
(seccomp) before the first fork.
"""

import errno
import gc
import json
import logging
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

from aihub.core.sandbox.confinement import confine
from aihub.core.sandbox.limits import die_with_parent, forbid_core_dumps
from aihub.speech.recognition.listening import Listener
from aihub.speech.recognition.options import RecogniserLimits

_MAX_PACKET_BYTES = 65536
_MAX_REASON_CHARS = 2000

logger = logging.getLogger(__name__)


def load_model(folder: str) -> Any:
    """Load a Vosk model.

    Raises:
        ValueError: It cannot be loaded; with what Kaldi printed.
    """
    import vosk

    vosk.SetLogLevel(-1)
    with _KeptErrors() as errors:
        try:
            return vosk.Model(folder)
        except Exception as error:  # the wrapper raises nothing finer
            raise ValueError(errors.read() or str(error)) from error


class _KeptErrors:
    """Keeps what native code prints to standard error, which is where Kaldi says why a model does not load."""

    def __enter__(self) -> "_KeptErrors":
        self._kept = os.memfd_create("kaldi-errors")
        self._stderr = os.dup(2)
        os.dup2(self._kept, 2)
        return self

    def read(self) -> str:
        """Return what was printed so far."""
        text = os.pread(self._kept, _MAX_REASON_CHARS, 0).decode(errors="replace")
        return " ".join(text.split())

    def __exit__(self, *_: object) -> None:
        os.dup2(self._stderr, 2)
        os.close(self._stderr)
        os.close(self._kept)


class Launcher:
    """Forks recognisers on the hub's word and tells how they end.

    Args:
        control: The hub's control socket.
        model: A loaded `vosk.Model`.
        limits: Of each recogniser.
    """

    def __init__(self, control: socket.socket, model: Any, limits: RecogniserLimits) -> None:
        self._control = control
        self._model = model
        self._limits = limits
        self._numbers: dict[int, int] = {}
        self._woken, self._wake = os.pipe()

    def run(self) -> NoReturn:
        """Serve until the hub closes."""
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._stop)
        gc.freeze()
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            poll.poll()
            with suppress(BlockingIOError):
                os.read(self._woken, 4096)
            self._reap()
            self._take_orders()

    def _take_orders(self) -> None:
        while select.select([self._control], [], [], 0)[0]:
            packet, descriptors, _, _ = socket.recv_fds(self._control, _MAX_PACKET_BYTES, 1)
            if not packet:
                self._stop()
            order = json.loads(packet)
            if "fork" in order:
                self._fork(order["fork"], descriptors[0])
            elif "kill" in order:
                self._kill(order["kill"])

    def _fork(self, number: int, descriptor: int) -> None:
        launcher_pid = os.getpid()
        # Told to end between the fork and the next line, the new process would take its siblings along.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            pid = os.fork()
            if pid == 0:
                self._listen(descriptor, launcher_pid)
            self._numbers[pid] = number
        except OSError as error:
            logger.error("No process for a speech recogniser can be had: %s", error)
            self._tell({"ended": number, "exit_code": errno.EAGAIN})
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.close(descriptor)

    def _listen(self, descriptor: int, launcher_pid: int) -> NoReturn:
        """Be the new process."""
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        self._control.close()
        Listener(self._model, socket.socket(fileno=descriptor), self._limits).run(launcher_pid)

    def _kill(self, number: int) -> None:
        for pid, of_pid in self._numbers.items():
            if of_pid == number:
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                number = self._numbers.pop(pid)
                self._tell({"ended": number, "exit_code": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, Any]) -> None:
        tell(self._control, message)

    def _stop(self, *_: object) -> NoReturn:
        """Take every recogniser along: an orphan would stay a zombie where process 1 does not collect."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for pid in self._numbers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._numbers:
            os.waitpid(pid, 0)
        os._exit(0)


def tell(control: socket.socket, message: dict[str, Any]) -> None:
    """Send one packet; the hub may be gone."""
    with suppress(BrokenPipeError, ConnectionError):
        control.send(json.dumps(message).encode())


def main() -> NoReturn:
    """Load the model and serve."""
    logging.basicConfig(level=logging.WARNING)
    forbid_core_dumps()
    control = socket.socket(fileno=int(sys.argv[1]))
    packet = control.recv(_MAX_PACKET_BYTES)
    if not packet:
        sys.exit(0)
    setup = json.loads(packet)
    die_with_parent(setup["parent_pid"], signal.SIGTERM)
    try:
        model = load_model(setup["model_folder"])
    except ValueError as error:
        tell(control, {"failed": str(error)})
        sys.exit(1)
    try:
        confine()
    except OSError as error:
        logger.warning("Speech is recognised without a filter of system calls: %s", error)
    tell(control, {"ready": os.getpid()})
    Launcher(control, model, RecogniserLimits(**setup["limits"])).run()


if __name__ == "__main__":
    main()
