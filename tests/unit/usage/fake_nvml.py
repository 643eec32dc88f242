"""NVML with the names, shapes and errors of `pynvml`, over cards that a test sets."""

import sys
from dataclasses import dataclass, field
from types import ModuleType

import pynvml
import pytest


@dataclass
class FakeCard:
    """One card. `samples` holds (process id, microseconds, percent); None where the card does not tell processes."""

    name: str = "NVIDIA GeForce RTX 4060 Ti"
    uuid: str = "GPU-1"
    samples: list[tuple[int, int, int]] | None = field(default_factory=list)
    gpu_percent: int = 0
    millijoules: int | None = 0
    total_bytes: int = 16 * 2**30
    used_bytes: int = 2**30
    temperature_c: int = 51
    milliwatts: int | None = 90_500


class FakeNvml(ModuleType):
    """Errors are the real library's, whose classes are made from its error numbers."""

    NVMLError = pynvml.NVMLError
    NVMLError_NotFound = pynvml.NVMLError_NotFound
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, cards: list[FakeCard] | None) -> None:
        super().__init__("pynvml")
        self.cards = cards
        self.starts = 0

    def nvmlInit(self) -> None:
        self.starts += 1
        if self.cards is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards or ())

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeCard:
        assert self.cards is not None
        if index >= len(self.cards):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.cards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> FakeCard:
        for card in self.cards or ():
            if card.uuid.encode() == uuid:
                return card
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetProcessUtilization(self, card: FakeCard, timestamp_us: int) -> list[pynvml.c_nvmlProcessUtilizationSample_t]:
        if card.samples is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        newer = [sample for sample in card.samples if sample[1] > timestamp_us]
        if not newer:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return [pynvml.c_nvmlProcessUtilizationSample_t(pid, at_us, percent, 0, 0, 0) for pid, at_us, percent in newer]

    def nvmlDeviceGetUtilizationRates(self, card: FakeCard) -> pynvml.c_nvmlUtilization_t:
        return pynvml.c_nvmlUtilization_t(card.gpu_percent, 0)

    def nvmlDeviceGetTotalEnergyConsumption(self, card: FakeCard) -> int:
        if card.millijoules is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return card.millijoules

    def nvmlDeviceGetName(self, card: FakeCard) -> str:
        return card.name

    def nvmlDeviceGetUUID(self, card: FakeCard) -> str:
        return card.uuid

    def nvmlDeviceGetMemoryInfo(self, card: FakeCard) -> pynvml.c_nvmlMemory_t:
        return pynvml.c_nvmlMemory_t(card.total_bytes, card.total_bytes - card.used_bytes, card.used_bytes)

    def nvmlDeviceGetTemperature(self, card: FakeCard, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return card.temperature_c

    def nvmlDeviceGetPowerUsage(self, card: FakeCard) -> int:
        if card.milliwatts is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return card.milliwatts


def install(monkeypatch: pytest.MonkeyPatch, cards: list[FakeCard] | None) -> FakeNvml:
    """Put these cards into the machine; None is a machine without a driver."""
    fake = FakeNvml(cards)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake
