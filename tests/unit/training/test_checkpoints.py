import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aihub.finetuning.results import TrainingCancelledError
from tests.unit.training.conftest import Watch
from tests.unit.training.tiny_model import SETTINGS, questions
from training.lora import train

ROOT = Path(__file__).resolve().parents[3]
IMPORTS = "import pathlib, sys; from tests.unit.training.test_checkpoints import run; "
SameWeights = Callable[[Path, Path], bool]


def run(base: Path, folder: Path, watch: Watch | None = None, *, epochs: int = 2) -> Path:
    """A checkpoint after each of four steps an epoch."""
    watch = watch or Watch()
    settings = SETTINGS.model_copy(update={"checkpoint_every_steps": 1, "dropout": 0.1, "epochs": epochs})
    return train(
        base,
        questions(),
        settings,
        work=folder / "work",
        output=folder / "adapter",
        report=watch.report,
        cancelled=watch.cancelled,
    ).folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoint_is_an_adapter_with_optimizer_and_state_and_old_ones_go(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path)
    assert names(tmp_path / "work") == ["checkpoint-00000007", "checkpoint-00000008"]
    assert names(tmp_path / "work" / "checkpoint-00000008") == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]


@pytest.mark.parametrize("damaged", ["adapter_model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("is_missing", [True, False])
def test_damaged_checkpoint_is_left_out_and_the_one_before_resumed(
    base: Path, tmp_path: Path, same_weights: SameWeights, damaged: str, is_missing: bool
) -> None:
    whole = run(base, tmp_path / "whole")
    with pytest.raises(TrainingCancelledError):
        run(base, tmp_path, Watch(stop_after=5))
    path = tmp_path / "work" / "checkpoint-00000005" / damaged
    if is_missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-100])
    rest = Watch()
    adapter = run(base, tmp_path, rest)
    assert rest.reports[0].step == 4
    assert same_weights(adapter, whole)


def test_half_written_checkpoint_is_not_seen_and_goes_with_the_next(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingCancelledError):
        run(base, tmp_path, Watch(stop_after=3))
    half = tmp_path / "work" / ".checkpoint-00000004.partial"
    shutil.copytree(tmp_path / "work" / "checkpoint-00000003", half)
    (half / "state.json").unlink()
    rest = Watch()
    run(base, tmp_path, rest)
    assert rest.reports[0].step == 3
    assert names(tmp_path / "work") == ["checkpoint-00000007", "checkpoint-00000008"]


def test_killed_training_goes_on_to_the_adapter_of_one_that_was_not(
    base: Path, tmp_path: Path, same_weights: SameWeights
) -> None:
    """SIGKILL to a process that is writing checkpoints all the time."""
    epochs = 20
    code = f"{IMPORTS}import torch; torch.set_num_threads(1); run(*map(pathlib.Path, sys.argv[1:]), epochs={epochs})"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(base), str(tmp_path)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 120
    try:
        while not list((tmp_path / "work").glob("checkpoint-*")):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert not (tmp_path / "adapter").exists()
    rest = Watch()
    adapter = run(base, tmp_path, rest, epochs=epochs)
    assert 1 <= rest.reports[0].step < 4 * epochs
    assert same_weights(adapter, run(base, tmp_path / "whole", epochs=epochs))
