"""Processes as `/proc` shows them, for tests of what ends and what stays."""

import asyncio
import os
import signal
from pathlib import Path

WAIT_S = 5.0
_PERIOD_S = 0.02


def children_of(pid: int) -> list[int]:
    """Return the process ids of a process's children, oldest first."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def kill_children(pid: int, signum: signal.Signals) -> int:
    """Send a signal to every child, and return how many there were."""
    children = list(children_of(pid))
    for child in children:
        os.kill(child, signum)
    return len(children)


def is_running(pid: int) -> bool:
    """Whether there is such a process, a dead one that nobody has collected included."""
    return Path(f"/proc/{pid}").exists()


def private_bytes(pid: int) -> int:
    """Return the memory of a process that it shares with no other; 0 when it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def status_of(pid: int) -> dict[str, str]:
    """Return the fields of `/proc/<pid>/status`."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limit_of(pid: int, name: str) -> str:
    """Return a soft limit, such as `Max address space`."""
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix(name).split()[0] for line in lines if line.startswith(name))


def environment_of(pid: int) -> list[str]:
    """Return the variables a process was started with, as `NAME=value`."""
    return Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")


async def until_ended(pid: int) -> None:
    """Wait until there is no such process.

    Raises:
        TimeoutError: There still is after `WAIT_S`.
    """
    async with asyncio.timeout(WAIT_S):
        while is_running(pid):  # noqa: ASYNC110  # another process's child has no event here
            await asyncio.sleep(_PERIOD_S)
