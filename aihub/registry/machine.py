"""What this machine has: memory, graphics card, free disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from aihub.nvidia_driver import ask_driver

GIB = 2**30
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, slots=True)
class Machine:
    """Sizes that decide which models fit.

    Attributes:
        ram_bytes: Memory this process may use in all; a container's limit where that is lower.
        gpu_name: The largest card, None without one.
        gpu_memory_bytes: Memory of that card, 0 without one.
        disk_free_bytes: On the disk of the state folder.
    """

    ram_bytes: int
    gpu_name: str | None
    gpu_memory_bytes: int
    disk_free_bytes: int


def read_machine(state_folder: Path, cgroup_limit: Path = CGROUP_LIMIT) -> Machine:
    """Look at the machine; takes up to a second where a graphics driver is asked."""
    name, memory_bytes = _read_gpu()
    return Machine(read_ram(cgroup_limit), name, memory_bytes, _read_free(state_folder))


def read_ram(cgroup_limit: Path = CGROUP_LIMIT) -> int:
    """Return the memory in bytes this process may use in all; a container's limit where that is lower."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = cgroup_limit.read_text(encoding="ascii").strip() if cgroup_limit.is_file() else "max"
    return min(total, int(limit)) if limit.isdecimal() else total


def _read_gpu() -> tuple[str | None, int]:
    cards = [(", ".join(row[:-1]), row[-1]) for row in ask_driver("--query-gpu=name,memory.total") if row]
    found = [(int(mebibytes) * 2**20, name) for name, mebibytes in cards if mebibytes.isdecimal()]
    if not found:
        return None, 0
    memory_bytes, name = max(found)
    return name, memory_bytes


def _read_free(folder: Path) -> int:
    existing = next(path for path in [folder, *folder.parents] if path.exists())
    return shutil.disk_usage(existing).free
