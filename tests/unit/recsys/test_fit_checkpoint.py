from pathlib import Path

import numpy as np
import pytest

from aihub.recsys import array_files
from aihub.recsys.array_files import FitCheckpoint


def test_stage_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    arrays = {"users": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.empty(0, np.int64)}
    FitCheckpoint(tmp_path, "train-1").save("factors", arrays, {"dim": 3, "random": {"state": 2**127}})
    saved = FitCheckpoint(tmp_path, "train-1").load("factors")
    assert saved is not None
    assert saved.facts == {"dim": 3, "random": {"state": 2**127}}
    np.testing.assert_array_equal(saved.arrays["users"], arrays["users"])
    assert saved.arrays["none"].dtype == np.int64


def test_later_saving_replaces_the_earlier(tmp_path: Path) -> None:
    checkpoint = FitCheckpoint(tmp_path, "train-1")
    for number in (1, 2):
        checkpoint.save("epoch", {"number": np.array([number])})
    saved = checkpoint.load("epoch")
    assert saved is not None
    assert saved.arrays["number"].tolist() == [2]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch.safetensors"]


@pytest.mark.parametrize("damage", [b"", b"\x00" * 4, b"\xff" * 100])
def test_damaged_file_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    checkpoint = FitCheckpoint(tmp_path, "train-1")
    checkpoint.save("epoch", {"number": np.arange(9)})
    (tmp_path / "epoch.safetensors").write_bytes(damage)
    assert checkpoint.load("epoch") is None


def test_what_another_training_left_is_not_seen(tmp_path: Path) -> None:
    FitCheckpoint(tmp_path, "train-1").save("epoch", {"number": np.arange(9)})
    assert FitCheckpoint(tmp_path, "train-2").load("epoch") is None


def test_without_a_folder_nothing_is_kept() -> None:
    checkpoint = FitCheckpoint()
    checkpoint.save("epoch", {"number": np.arange(9)})
    assert checkpoint.load("epoch") is None
    assert not checkpoint.is_due()


def test_saving_is_due_when_the_last_one_is_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = FitCheckpoint(tmp_path, "train-1")
    assert not checkpoint.is_due()
    monkeypatch.setattr(array_files, "LEAST_GAP_S", 0.0)
    assert checkpoint.is_due()


def test_checkpoint_of_another_version_of_the_hub_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FitCheckpoint(tmp_path, "train-1").save("epoch", {"number": np.arange(9)})
    monkeypatch.setattr(array_files, "FORMAT", "another")
    assert FitCheckpoint(tmp_path, "train-1").load("epoch") is None


def test_fit_goes_on_without_room_for_its_checkpoint(tmp_path: Path) -> None:
    checkpoint = FitCheckpoint(tmp_path / "gone", "train-1")
    checkpoint.save("epoch", {"number": np.arange(9)})
    assert checkpoint.load("epoch") is None
