"""Arrays of a model on disk: one `.npy` file each, read by memory map, never pickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.errors import ModelUnavailableError


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write each array as `<name>.npy` into an existing folder."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def load_array(folder: Path, name: str, *, mmap: bool = True) -> NDArray[Any]:
    """Read one array; with `mmap` its pages are shared by all processes and come in when touched.

    Raises:
        ModelUnavailableError: The file is missing, cut short, or no plain array.
    """
    path = folder / f"{name}.npy"
    try:
        # An empty file region cannot be mapped, and a small one is not worth a map.
        array: NDArray[Any] = np.load(path, mmap_mode="r" if mmap and path.stat().st_size > 4096 else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelUnavailableError(f"The model file {path.name} cannot be read; train the store again or roll back.") from error
    return array
