"""One parser process: the hub's side starts it, hands it documents and ends it when it takes too long; its own side gives up what
it may ask of the kernel before it reads one: sockets, other programs, changes of files (Linux, seccomp).

The filter holds for the process and all it forks, and cannot be taken off. Files can still be read, as libraries are loaded late.
"""

import ctypes
import errno
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

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


_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EPERM
_X32_CALLS = 0x40000000
"""From here on x86_64 counts the same calls again, for programs with short pointers."""
# Offsets in `struct seccomp_data`, and the operations of classic BPF that are used.
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class _Architecture:
    """Numbers of system calls, from the kernel's tables.

    Attributes:
        audit: The kernel's number of the architecture.
        refused: socket, socketpair, connect, bind, execve, execveat, ptrace, process_vm_*, io_uring_setup, openat2 (its flags
            cannot be seen), and what makes, renames, removes or changes files by name.
        opens: Calls that open a file, and the index of the argument with its flags.
    """

    audit: int
    refused: tuple[int, ...]
    opens: dict[int, int]


_ARCHITECTURES = {
    "x86_64": _Architecture(
        0xC000003E,
        (41, 53, 42, 49, 59, 322, 101, 310, 311, 425, 437)
        + (76, 82, 83, 84, 85, 86, 87, 88, 90, 92, 94, 133, 258, 259, 260, 263, 264, 265, 266, 268, 316, 452),
        {2: 1, 257: 2},
    ),
    "aarch64": _Architecture(
        0xC00000B7,
        (198, 199, 203, 200, 221, 281, 117, 270, 271, 425, 437) + (33, 34, 35, 36, 37, 38, 45, 53, 54, 276, 452),
        {56: 2},
    ),
}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def confine() -> None:
    """Give up sockets, programs and changes of files, for good.

    Raises:
        OSError: This system has no seccomp filters; the process goes on as it was.
    """
    architecture = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or architecture is None:
        raise OSError(errno.ENOSYS, f"no filter for {sys.platform} on {platform.machine()}")
    instructions = list(_filter(architecture))
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, argument in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)),
    ):
        if libc.prctl(option, ctypes.c_ulong(value), argument, ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _filter(architecture: _Architecture) -> Iterable[_Instruction]:
    """Each test skips the `return` behind it unless the call is to be refused."""
    refuse = _Instruction(_RETURN, 0, 0, _REFUSE)
    yield _Instruction(_LOAD, 0, 0, _ARCHITECTURE_AT)
    yield from (_Instruction(_IF_EQUAL, 1, 0, architecture.audit), refuse)
    yield _Instruction(_LOAD, 0, 0, _NUMBER_AT)
    yield from (_Instruction(_IF_AT_LEAST, 0, 1, _X32_CALLS), refuse)
    for number in architecture.refused:
        yield from (_Instruction(_IF_EQUAL, 0, 1, number), refuse)
    for number, flags in architecture.opens.items():
        yield _Instruction(_IF_EQUAL, 0, 4, number)
        yield _Instruction(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * flags)
        yield from (_Instruction(_IF_ANY_BIT, 0, 1, _WRITING), refuse)
        yield _Instruction(_RETURN, 0, 0, _ALLOW)
    yield _Instruction(_RETURN, 0, 0, _ALLOW)
