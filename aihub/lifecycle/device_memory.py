"""Live memory of the devices of this machine, as the kernel and the NVIDIA driver tell it."""

from collections.abc import Iterable
from pathlib import Path

from aihub.lifecycle.host import DeviceMemory
from aihub.nvidia_driver import ask_driver
from aihub.registry.machine import CGROUP_LIMIT, read_ram

MIB = 2**20


def read_device_memory(device: str, cgroup: Path = CGROUP_LIMIT.parent) -> list[DeviceMemory]:
    """Return the memory of `cpu` or of every card; none where the driver does not answer. Blocking, up to a second.

    Cards are `cuda:0`, `cuda:1`, ... in the driver's order. In a container with a memory limit, `cpu` is what it leaves.
    """
    if device == "cpu":
        total_bytes = read_ram(cgroup / CGROUP_LIMIT.name)
        return [DeviceMemory("cpu", total_bytes, _read_free_ram(total_bytes, cgroup))]
    rows = _ask_numbers("--query-gpu=index,memory.total,memory.free")
    return [DeviceMemory(f"cuda:{index}", total * MIB, free * MIB) for index, total, free in rows]


def read_process_memory(device: str, process_ids: Iterable[int]) -> int:
    """Return the bytes these processes and their children hold on a device; 0 when none lives. Blocking.

    On `cpu` that is resident memory less pages shared with others (libraries are loaded once for all).
    """
    import psutil

    tree: dict[int, psutil.Process] = {}
    for process_id in process_ids:
        try:
            process = psutil.Process(process_id)
            tree |= {member.pid: member for member in [process, *process.children(recursive=True)]}
        except psutil.NoSuchProcess:
            continue
    if device != "cpu":
        rows = _ask_numbers("--query-compute-apps=pid,used_memory")
        return sum(used * MIB for process_id, used in rows if process_id in tree)
    held = 0
    for process in tree.values():
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:
            continue
        held += max(memory.rss - memory.shared, 0)
    return held


def read_compute_capability() -> tuple[int, int] | None:
    """Return the first card's compute capability, (8, 9) for an RTX 4060 Ti; None without a driver. Blocking."""
    rows = ask_driver("--query-gpu=compute_cap")
    major, _, minor = rows[0][0].partition(".") if rows else ("", "", "")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _read_free_ram(total_bytes: int, cgroup: Path) -> int:
    import psutil

    free_bytes = int(psutil.virtual_memory().available)
    try:
        used_bytes = int((cgroup / "memory.current").read_text(encoding="ascii"))
        lines = (cgroup / "memory.stat").read_text(encoding="ascii").splitlines()
        # Files read once and not since: the kernel drops them before it refuses memory.
        droppable_bytes = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, IndexError):
        return min(free_bytes, total_bytes)  # The limits are not in version 2 of control groups, or there are none.
    return max(min(free_bytes, total_bytes - used_bytes + droppable_bytes), 0)


def _ask_numbers(question: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, row)) for row in ask_driver(question) if all(cell.isdecimal() for cell in row)]
