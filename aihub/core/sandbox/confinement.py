"""What a process gives up of the kernel before it reads untrusted input (Linux, seccomp).

First sockets, programs and changes of files, and after its fork signals to others. The filters hold for the process and all it
forks, and cannot be taken off. Files can still be read, as libraries are loaded late.
"""

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

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
            cannot be seen); what makes, renames, removes or changes files by name; fchmod, fchown, *setxattr, *removexattr, utime
            and its like; mount and its like, pivot_root, chroot, unshare, setns.
        opens: Calls that open a file, and the index of the argument with its flags.
        signals: kill and tgkill, whose first argument is a process.
        other_signals: tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal.
    """

    audit: int
    refused: tuple[int, ...]
    opens: dict[int, int]
    signals: tuple[int, ...]
    other_signals: tuple[int, ...]


_ARCHITECTURES = {
    "x86_64": _Architecture(
        0xC000003E,
        (41, 53, 42, 49, 59, 322, 101, 310, 311, 425, 437)
        + (76, 82, 83, 84, 85, 86, 87, 88, 90, 92, 94, 133, 258, 259, 260, 263, 264, 265, 266, 268, 316, 452)
        + (91, 93, 188, 189, 190, 197, 198, 199, 132, 235, 261, 280, 463, 466)
        + (165, 166, 155, 161, 272, 308, 428, 429, 430, 432, 442),
        {2: 1, 257: 2},
        (62, 234),
        (200, 129, 297, 424),
    ),
    "aarch64": _Architecture(
        0xC00000B7,
        (198, 199, 203, 200, 221, 281, 117, 270, 271, 425, 437)
        + (33, 34, 35, 36, 37, 38, 45, 53, 54, 276, 452)
        + (52, 55, 5, 6, 7, 14, 15, 16, 88, 463, 466)
        + (40, 39, 41, 51, 97, 268, 428, 429, 430, 432, 442),
        {56: 2},
        (129, 131),
        (130, 138, 240, 424),
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
    _install(_call_filter)


def confine_signals() -> None:
    """Give up signals to every process but this one, for good; for a process that forks and ends no others.

    Raises:
        OSError: As `confine`.
    """
    _install(_signal_filter)


def _install(build: Callable[[_Architecture], Iterable[_Instruction]]) -> None:
    architecture = _ARCHITECTURES.get(platform.machine())
    if sys.platform != "linux" or architecture is None:
        raise OSError(errno.ENOSYS, f"no filter for {sys.platform} on {platform.machine()}")
    instructions = list(build(architecture))
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, argument in (
        (_PR_SET_NO_NEW_PRIVS, 1, None),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)),
    ):
        if libc.prctl(option, ctypes.c_ulong(value), argument, ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _call_filter(architecture: _Architecture) -> Iterable[_Instruction]:
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


def _signal_filter(architecture: _Architecture) -> Iterable[_Instruction]:
    """Other architectures' calls are `_call_filter`'s to refuse."""
    refuse = _Instruction(_RETURN, 0, 0, _REFUSE)
    yield _Instruction(_LOAD, 0, 0, _NUMBER_AT)
    for number in architecture.other_signals:
        yield from (_Instruction(_IF_EQUAL, 0, 1, number), refuse)
    for number in architecture.signals:
        # abort() sends its signal to the own process by tgkill.
        yield _Instruction(_IF_EQUAL, 0, 4, number)
        yield _Instruction(_LOAD, 0, 0, _ARGUMENTS_AT)
        yield from (_Instruction(_IF_EQUAL, 1, 0, os.getpid()), refuse)
        yield _Instruction(_RETURN, 0, 0, _ALLOW)
    yield _Instruction(_RETURN, 0, 0, _ALLOW)
