from pathlib import Path

import numpy as np
import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.recsys.array_files import load_array, save_arrays


def test_a_large_array_comes_back_as_a_memory_map(tmp_path: Path) -> None:
    save_arrays(tmp_path, {"mảng": np.arange(5_000)})
    loaded = load_array(tmp_path, "mảng")
    assert isinstance(loaded, np.memmap)
    assert loaded.tolist() == list(range(5_000))


def test_an_empty_array_comes_back_empty(tmp_path: Path) -> None:
    save_arrays(tmp_path, {"none": np.empty(0, np.int32)})
    assert load_array(tmp_path, "none").shape == (0,)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npy").write_bytes(content)
    with pytest.raises(ModelUnavailableError, match="roll back"):
        load_array(tmp_path, "bad")


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelUnavailableError):
        load_array(tmp_path, "bad")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match=r"gone\.npy"):
        load_array(tmp_path, "gone")
