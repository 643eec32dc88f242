"""One limited process as the hub sees it: started, handed requests, and ended when it takes too long."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aihub.core.errors import ConfigurationError, UnavailableError
from aihub.core.sandbox.frames import BrokenFrameError, Frame, FramePipe
from aihub.core.sandbox.limits import ProcessLimits

_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 2.0
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
# One thread per process: the pool is the parallelism, and forking needs single-threaded libraries.
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, slots=True)
class SandboxProgram:
    """What a limited process runs.

    Attributes:
        name: For messages, in the middle of a sentence: `document parser`.
        module: Dotted; run as `python -m`, it calls `launcher.run_launcher`.
        limits: Of each request.
        options: JSON values that its `load` gets.
    """

    name: str
    module: str
    limits: ProcessLimits
    options: Mapping[str, Any]


class ProcessTimeoutError(Exception):
    """The process did not answer in time and was ended."""


class ProcessDiedError(Exception):
    """The process that worked on the request ended without an answer; its launcher may live and have replaced it.

    Attributes:
        exit_code: As `subprocess` gives it; -N for signal N, `frames.EXIT_MEMORY` where an allocation failed.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the process ended with {exit_code}")
        self.exit_code = exit_code


class SandboxProcess:
    """One limited process. Blocking; one caller at a time, except `kill`, which any thread may call.

    The kernel ends the process when the thread that made it ends: make it on a thread that stays. `set_up` comes first.

    Raises:
        UnavailableError: The machine starts no more processes.
    """

    def __init__(self, program: SandboxProgram) -> None:
        self._program = program
        command = [sys.executable, "-P", "-m", program.module]
        try:
            # Its own session: Ctrl-C on the terminal is the hub's business. No secrets in its environment.
            self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True, env=child_environment()
            )
        except OSError as error:
            raise UnavailableError(f"Cannot start a {program.name} process: {error}.") from error
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - pipes were asked for
        os.set_blocking(self._process.stdin.fileno(), False)
        self._ended: int | None = None
        self._pipe = FramePipe(self._process.stdout.fileno(), self._process.stdin.fileno())

    def set_up(self) -> None:
        """Wait until it has loaded its libraries.

        Raises:
            ConfigurationError: It cannot work, and says why.
            UnavailableError: It takes too long, or was killed meanwhile.
        """
        name = self._program.name
        setup = {
            "parent_pid": os.getpid(),
            "limits": asdict(self._program.limits),
            "options": dict(self._program.options),
        }
        try:
            answer = self.exchange(Frame(setup), _START_TIMEOUT_S)
        except ProcessTimeoutError as error:
            raise UnavailableError(f"The {name} process did not start within {_START_TIMEOUT_S:.0f} s.") from error
        except ProcessDiedError as error:
            raise ConfigurationError(f"The {name} process ended with {error.exit_code}; its output says why.") from error
        if "failed" in answer.header:
            self.stop()
            raise ConfigurationError(f"The {name} process cannot start: {answer.header['failed']}")

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def exchange(self, request: Frame, timeout_s: float) -> Frame:
        """Send a request, or a piece of one, and return the next frame of the answer; raises as `receive`."""
        deadline = time.monotonic() + timeout_s
        return self._exchange(request, deadline)

    def receive(self, timeout_s: float) -> Frame:
        """Return the next frame of an answer of several.

        Raises:
            ProcessTimeoutError: Nothing came within `timeout_s`; the process is gone.
            ProcessDiedError: The process ended first; see `is_alive`.
        """
        return self._exchange(None, time.monotonic() + timeout_s)

    def _exchange(self, request: Frame | None, deadline: float) -> Frame:
        if self._ended is not None:
            raise ProcessDiedError(self._ended)
        try:
            if request is not None:
                self._pipe.send(request, deadline=deadline)
            answer = self._pipe.receive(deadline=deadline)
        except TimeoutError as error:
            self.stop()
            raise ProcessTimeoutError from error
        except BrokenFrameError as error:
            raise ProcessDiedError(self._end()) from error
        if answer is None:
            raise ProcessDiedError(self._end())
        if "died" in answer.header:
            raise ProcessDiedError(answer.header["died"])
        return answer

    def kill(self) -> None:
        """Tell the process to end now; the running `exchange` raises ProcessDiedError."""
        if self.is_alive:
            self._process.terminate()

    def stop(self) -> None:
        """End the process and everything it started, and wait until it is gone."""
        self.kill()
        self._end()

    def _end(self) -> int:
        """Wait for the end, force it if it does not come, and return the exit code."""
        try:
            code = self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            code = self._process.wait()
        self._ended = code
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return code


def child_environment() -> dict[str, str]:
    """Return the variables of a limited process: what libraries need, no secrets."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # The module path of this process, so that the child finds the same code however it got here (Ray working directories).
    return kept | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
