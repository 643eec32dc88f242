"""What this machine has and can do: memory, graphics card and its driver, free disk, instructions of the processor."""

import resource
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# x86 names from Linux's cpuinfo; Arm calls its own "bf16".
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@cache
def has_bfloat16_units(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bfloat16 natively; without it bfloat16 runs several times slower than float32."""
    if not cpuinfo.is_file():
        return False
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return not _BFLOAT16_FLAGS.isdisjoint(line.split())
    return False


def read_peak_memory_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Return the most RAM that this process has held since its program started.

    A kernel that does not tell it is asked by `getrusage`, whose peak a program inherits from the process that started it.
    """
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


TIMEOUT_S = 5.0


def ask_driver(question: str) -> list[list[str]]:
    """Return the cells of each line that `nvidia-smi` answers; none without a driver, or when it fails. Blocking.

    Args:
        question: A query option, such as `--query-gpu=name,memory.total`; sizes come in MiB.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, question, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(  # noqa: S603  # a fixed command line, arguments as a list
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = answer.stdout.splitlines() if answer.returncode == 0 else []
    return [[cell.strip() for cell in line.split(",")] for line in lines]


def read_gpu_name(device: str) -> str | None:
    """Return what the driver calls the card of `cuda:<n>`; None for a CPU, and where nobody knows. Blocking."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return None
    names = [", ".join(cells) for cells in ask_driver("--query-gpu=name")]
    index = int(number or 0)
    return names[index] if index < len(names) else None


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
