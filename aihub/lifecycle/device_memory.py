"""Live memory of the devices of this machine, as the kernel and the NVIDIA driver tell it."""

import shutil
import subprocess
from collections.abc import Iterable

from aihub.lifecycle.host import DeviceMemory

MIB = 2**20
NVIDIA_SMI_TIMEOUT_S = 5.0


def read_device_memory(device: str) -> list[DeviceMemory]:
    """Return the memory of `cpu` or of every card; none where the driver does not answer. Blocking, up to a second.

    Cards are `cuda:0`, `cuda:1`, ... in the driver's order.
    """
    import psutil

    if device == "cpu":
        memory = psutil.virtual_memory()
        return [DeviceMemory("cpu", int(memory.total), int(memory.available))]
    rows = _ask_driver("--query-gpu=index,memory.total,memory.free")
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
        rows = _ask_driver("--query-compute-apps=pid,used_memory")
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
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    lines = _run([program, "--query-gpu=compute_cap", "--format=csv,noheader"]).split()
    major, _, minor = lines[0].partition(".") if lines else ("", "", "")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def _ask_driver(query: str) -> list[tuple[int, ...]]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    rows = [line.split(",") for line in _run([program, query, "--format=csv,noheader,nounits"]).splitlines()]
    return [tuple(int(cell) for cell in row) for row in rows if all(cell.strip().isdecimal() for cell in row)]


def _run(command: list[str]) -> str:
    try:
        answer = subprocess.run(  # noqa: S603  # a fixed command line, arguments as a list
            command, capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""
