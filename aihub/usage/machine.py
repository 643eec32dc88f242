"""Figures of this machine. All functions block for milliseconds: call them in a thread."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from aihub.core.hardware import read_ram
from aihub.usage.cards import open_cards
from aihub.usage.system_schemas import CardFigures, DiskFigures, MemoryFigures, ProcessFigures, ProcessorFigures

Figure = TypeVar("Figure")


class ProcessorReader:
    """Reads the processor; utilisation is that since the last reading, the first time since the reader was made.

    psutil's own `cpu_percent` remembers readings by thread, so that a pool's would tell of different times.
    """

    def __init__(self) -> None:
        self._busy_s, self._total_s = _read_times()

    def read(self) -> ProcessorFigures:
        """Return cores, load and utilisation."""
        busy_s, total_s = _read_times()
        share = (busy_s - self._busy_s) / max(total_s - self._total_s, 1e-9)
        self._busy_s, self._total_s = busy_s, total_s
        return ProcessorFigures(
            cores=len(os.sched_getaffinity(0)),
            load=[round(mean, 2) for mean in os.getloadavg()],
            utilisation_percent=round(min(max(100 * share, 0.0), 100.0), 1),
        )


def _read_times() -> tuple[float, float]:
    """Seconds that all cores together were busy, and all their seconds, since the machine began."""
    import psutil

    times = psutil.cpu_times()
    total_s = sum(times) - times.guest - times.guest_nice  # these are counted in others, too
    return total_s - times.idle - times.iowait, total_s


def read_memory() -> MemoryFigures:
    import psutil

    memory, total_bytes = psutil.virtual_memory(), read_ram()
    available_bytes = min(int(memory.available), total_bytes)
    return MemoryFigures(total_bytes=total_bytes, used_bytes=min(int(memory.used), total_bytes), available_bytes=available_bytes)


def read_disk(folder: Path) -> DiskFigures:
    """Return the sizes of the disk that a folder lies on."""
    usage = shutil.disk_usage(folder)
    return DiskFigures(total_bytes=usage.total, used_bytes=usage.used, free_bytes=usage.free)


def read_process() -> ProcessFigures:
    import psutil

    process = psutil.Process()
    return ProcessFigures(memory_bytes=process.memory_info().rss, children=len(process.children(recursive=True)))


def read_cards() -> list[CardFigures]:
    """Return all NVIDIA cards of the machine, those among them that this process may not use."""
    return [_read_card(card) for card in open_cards(all_of_machine=True)]


def _read_card(card: Any) -> CardFigures:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(card)
    utilisation = _told(pynvml.nvmlDeviceGetUtilizationRates, card)
    milliwatts = _told(pynvml.nvmlDeviceGetPowerUsage, card)
    return CardFigures(
        name=pynvml.nvmlDeviceGetName(card),
        uuid=pynvml.nvmlDeviceGetUUID(card),
        memory_total_bytes=memory.total,
        memory_used_bytes=memory.used,
        utilisation_percent=None if utilisation is None else utilisation.gpu,
        temperature_celsius=_told(pynvml.nvmlDeviceGetTemperature, card, pynvml.NVML_TEMPERATURE_GPU),
        power_watts=None if milliwatts is None else milliwatts / 1000,
    )


def _told(question: Callable[..., Figure], *arguments: Any) -> Figure | None:
    """Return what NVML answers, None where this card has no such figure."""
    import pynvml

    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None
