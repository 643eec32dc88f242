"""NVIDIA cards, as their driver's library NVML tells of them. Nothing is loaded before the first question."""

import logging
import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.usage.apportionment import Spent
from aihub.usage.card_users import CardUsers

logger = logging.getLogger(__name__)


def open_cards(*, all_of_machine: bool = False) -> list[Any]:
    """Return NVML's handles of the cards that this process may use; none without a card or a driver. Blocking.

    Args:
        all_of_machine: Also those that `CUDA_VISIBLE_DEVICES`, which chooses by number or UUID, keeps from this process.
    """
    import pynvml

    try:
        pynvml.nvmlInit()  # counts its calls, and costs nothing the second time
        count = int(pynvml.nvmlDeviceGetCount())
        chosen = None if all_of_machine else os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(index) for index in range(count)] if chosen is None else [name.strip() for name in chosen.split(",")]
        return [_open(name) for name in names if name and name != "-1"]
    except pynvml.NVMLError as error:
        logger.info("NVML tells of no card: %s", error)
        return []


def _open(name: str) -> Any:
    import pynvml

    if name.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name.encode())


class CardCounters:
    """Busy time and energy of cards, as far as they were for some processes.

    NVML tells how busy each process has kept a card. A container's processes bear other numbers there, and old cards tell none:
    then the card's busy time is shared evenly by the processes of the hub that are at work on it, see `CardUsers`. Energy is
    split by busy time, as a card has one counter for all.

    Args:
        folder: Where processes of this machine tell each other that they are at work; made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._meters: list[_CardMeter] | None = None
        self._total = Spent()

    def read(self, process_ids: Collection[int]) -> Spent:
        """Return seconds of busy cards and joules for these processes since the first call. Blocking."""
        if self._meters is None:
            self._meters = [_CardMeter(card, self._folder) for card in open_cards()]
        for meter in self._meters:
            self._total = self._total.plus(meter.measure(process_ids))
        return self._total


@dataclass(slots=True)
class _Busy:
    """Seconds a card was busy for some processes, and for all."""

    own_s: float
    all_s: float


class _CardMeter:
    def __init__(self, card: Any, folder: Path) -> None:
        import pynvml

        self._card = card
        self._users = CardUsers(folder / str(pynvml.nvmlDeviceGetUUID(card)))
        self._seen_us = time.time_ns() // 1000
        self._read_s = time.monotonic()
        self._millijoules = self._read_energy()

    def measure(self, process_ids: Collection[int]) -> Spent:
        """Return what was used since the last call."""
        now_s, millijoules = time.monotonic(), self._read_energy()
        elapsed_s, self._read_s = now_s - self._read_s, now_s
        used_j = (millijoules - self._millijoules) / 1000 if millijoules is not None and self._millijoules is not None else 0.0
        self._millijoules = millijoules
        busy = self._busy(process_ids) or self._busy_card(elapsed_s)
        return Spent(gpu_s=busy.own_s, joules=used_j * busy.own_s / busy.all_s if busy.all_s else 0.0)

    def _busy(self, process_ids: Collection[int]) -> _Busy | None:
        """Return busy times by process; None where the card tells none, or calls processes by numbers of another machine."""
        import pynvml

        try:
            samples = pynvml.nvmlDeviceGetProcessUtilization(self._card, self._seen_us)
        except pynvml.NVMLError_NotFound:
            return _Busy(0.0, 0.0)  # nothing has run since
        except pynvml.NVMLError:
            return None
        samples = [sample for sample in samples if sample.timeStamp > self._seen_us]
        if not samples:
            return _Busy(0.0, 0.0)
        if not all(_is_known(sample.pid) for sample in samples):
            return None
        seen_us, self._seen_us = self._seen_us, max(sample.timeStamp for sample in samples)
        busy_s = [(sample.pid, sample.smUtil / 100 * (sample.timeStamp - seen_us) / 1e6) for sample in samples]
        own_s = sum(seconds for pid, seconds in busy_s if pid in process_ids)
        return _Busy(own_s, sum(seconds for _, seconds in busy_s))

    def _busy_card(self, elapsed_s: float) -> _Busy:
        import pynvml

        try:
            busy_s = pynvml.nvmlDeviceGetUtilizationRates(self._card).gpu / 100 * elapsed_s
        except pynvml.NVMLError as error:
            logger.info("NVML does not tell how busy a card is: %s", error)
            return _Busy(0.0, 0.0)
        return _Busy(busy_s / self._users.count(), busy_s)

    def _read_energy(self) -> int | None:
        import pynvml

        try:
            return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._card))
        except pynvml.NVMLError:
            return None  # cards before Volta have no such counter


def _is_known(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
