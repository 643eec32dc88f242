"""Questions to the NVIDIA driver, through its own program."""

import shutil
import subprocess

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
