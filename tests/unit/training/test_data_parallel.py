"""Two processes over gloo against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.training.conftest import Watch
from tests.unit.training.tiny_model import SETTINGS, questions
from training.lora import train

ROOT = Path(__file__).resolve().parents[3]
WORKER = """
import pathlib, sys, torch
from tests.unit.training.test_data_parallel import run
torch.set_num_threads(1)
base, folder, rank = sys.argv[1:]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=int(rank), world_size=2)
print(run(pathlib.Path(base), pathlib.Path(folder)))
torch.distributed.destroy_process_group()
"""


def run(base: Path, folder: Path) -> list[float]:
    """Losses that this worker has reported; three examples a step, so that the workers' shares differ and the last is one."""
    watch = Watch()
    settings = SETTINGS.model_copy(update={"batch_size": 3, "epochs": 3})
    train(
        base,
        questions(),
        settings,
        work=folder / "work",
        output=folder / "adapter",
        validation=questions()[:3],
        report=watch.report,
    )
    return watch.losses + [report.eval_loss for report in watch.reports if report.eval_loss is not None]


def test_two_workers_learn_the_same_as_one_and_the_first_alone_reports(
    base: Path,
    tmp_path: Path,
) -> None:
    alone = run(base, tmp_path / "alone")
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(base), str(tmp_path), str(rank)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        first, second = (worker.communicate(timeout=120)[0] for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
    assert [float(loss) for loss in first.splitlines()[-1].strip("[]").split(", ")] == pytest.approx(alone, abs=1e-4)
    assert second.splitlines()[-1] == "[]"
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
