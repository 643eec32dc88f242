from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from aihub.finetuning.results import StepReport
from tests.unit.training.tiny_model import write_tiny_model


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is fastest on one thread, and its losses are then the same on every machine with such a processor."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Watch:
    """Keeps the reports of a training, and asks it to stop after a step."""

    stop_after: int | None = None
    reports: list[StepReport] = field(default_factory=list)

    def report(self, report: StepReport) -> None:
        self.reports.append(report)

    def cancelled(self) -> bool:
        return self.stop_after is not None and bool(self.reports) and self.reports[-1].step >= self.stop_after

    @property
    def losses(self) -> list[float]:
        return [report.loss for report in self.reports if report.loss is not None]


@pytest.fixture
def same_weights() -> Callable[[Path, Path], bool]:
    def compare(one: Path, other: Path) -> bool:
        left, right = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
        return left.keys() == right.keys() and all(bool((left[name] == right[name]).all()) for name in left)

    return compare
