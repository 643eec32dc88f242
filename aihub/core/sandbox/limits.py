"""Limits that a process sets on itself; the kernel holds it to them."""

import ctypes
import os
import resource
import signal
import sys
from dataclasses import dataclass

_MIB = 2**20
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """What one request may take.

    Attributes:
        memory_mb: MiB of address space beyond what the idle process has.
        cpu_s: Seconds of processor time.
        recycle_after: Requests after which a process is replaced, so that leaks of libraries stay small.
    """

    memory_mb: int
    cpu_s: int
    recycle_after: int = 200


def address_space_bytes() -> int:
    """Size of this process's address space, the quantity RLIMIT_AS bounds."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def limit_memory(memory_mb: int) -> None:
    """Let this process map `memory_mb` MiB more than it has now; allocations beyond fail."""
    limit = _within_hard_limit(resource.RLIMIT_AS, address_space_bytes() + memory_mb * _MIB)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def limit_cpu(cpu_s: int) -> None:
    """End this process by SIGXCPU when it has used `cpu_s` more seconds of processor time (whole seconds, rounded up)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = _within_hard_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_s)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _within_hard_limit(limit: int, wanted: int) -> int:
    hard = resource.getrlimit(limit)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def forbid_core_dumps() -> None:
    """Leave no core files: they would hold documents of users."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die_with_parent(parent_pid: int, signum: signal.Signals) -> None:
    """Have the kernel send `signum` when the parent dies, however it dies.

    End of file on the pipe is not enough: a process busy with a document does not read.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signum))
    if os.getppid() != parent_pid:
        os._exit(0)
