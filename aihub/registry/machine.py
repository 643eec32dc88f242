"""What this machine has: memory, graphics card, free disk."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30
NVIDIA_SMI_TIMEOUT_S = 5.0
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
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, 0
    question = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(  # noqa: S603  # a fixed command line, arguments as a list
            question, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, 0
    cards = [line.rpartition(",") for line in answer.stdout.splitlines()] if answer.returncode == 0 else []
    found = [(int(mebibytes) * 2**20, name.strip()) for name, _, mebibytes in cards if mebibytes.strip().isdecimal()]
    if not found:
        return None, 0
    memory_bytes, name = max(found)
    return name, memory_bytes


def _read_free(folder: Path) -> int:
    existing = next(path for path in [folder, *folder.parents] if path.exists())
    return shutil.disk_usage(existing).free
