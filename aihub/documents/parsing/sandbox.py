"""The hub's side of one parser process: start it, hand it documents, and end it when it takes too long."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

from aihub.core.errors import ConfigurationError, UnavailableError
from aihub.documents.parsing.frames import BrokenFrameError, Frame, FramePipe
from aihub.documents.parsing.options import ParseLimits

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


class ParserTimeoutError(Exception):
    """The process did not answer in time and was ended."""


class ParserDiedError(Exception):
    """The process that read the document ended without an answer; its launcher may live and have replaced it.

    Attributes:
        exit_code: As `subprocess` gives it; -N for signal N.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"parser process ended with {exit_code}")
        self.exit_code = exit_code


class ParserProcess:
    """One limited process that reads documents. Blocking; one caller at a time, except `kill`, which any thread may call.

    Raises:
        ConfigurationError: The process cannot work, e.g. for want of its tokenizer.
        UnavailableError: The machine starts no more processes.
    """

    def __init__(self, tokenizer_path: str, limits: ParseLimits, recycle_after: int) -> None:
        command = [sys.executable, "-P", "-m", "aihub.documents.parsing.worker"]
        try:
            # Its own session: Ctrl-C on the terminal is the hub's business. No secrets in its environment.
            self._process = subprocess.Popen(  # noqa: S603 - fixed arguments
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True, env=_environment()
            )
        except OSError as error:
            raise UnavailableError(f"Cannot start a document parser process: {error}.") from error
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101 - pipes were asked for
        os.set_blocking(self._process.stdin.fileno(), False)
        self._pipe = FramePipe(self._process.stdout.fileno(), self._process.stdin.fileno())
        self._set_up(
            {
                "parent_pid": os.getpid(),
                "tokenizer_path": tokenizer_path,
                "recycle_after": recycle_after,
                "limits": asdict(limits),
            }
        )

    def _set_up(self, setup: dict[str, object]) -> None:
        try:
            answer = self.exchange(Frame(setup), _START_TIMEOUT_S)
        except ParserTimeoutError as error:
            raise UnavailableError(f"The document parser process did not start within {_START_TIMEOUT_S:.0f} s.") from error
        except ParserDiedError as error:
            raise ConfigurationError(f"The document parser process ended with {error.exit_code}; its output says why.") from error
        if "failed" in answer.header:
            self.stop()
            raise ConfigurationError(f"The document parser process cannot start: {answer.header['failed']}")

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def exchange(self, request: Frame, timeout_s: float) -> Frame:
        """Send a request and return the answer.

        Raises:
            ParserTimeoutError: No answer within `timeout_s`; the process is gone.
            ParserDiedError: The process ended first; see `is_alive`.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._pipe.send(request, deadline=deadline)
            answer = self._pipe.receive(deadline=deadline)
        except TimeoutError as error:
            self.stop()
            raise ParserTimeoutError from error
        except BrokenFrameError as error:
            raise ParserDiedError(self._end()) from error
        if answer is None:
            raise ParserDiedError(self._end())
        if "died" in answer.header:
            raise ParserDiedError(answer.header["died"])
        return answer

    def kill(self) -> None:
        """Tell the process to end now; the running `exchange` raises ParserDiedError."""
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
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        return code


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # The module path of this process, so that the child finds the same code however it got here (Ray working directories).
    return kept | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
