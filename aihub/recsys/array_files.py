"""Arrays on disk: those of a model, and the state of an unfinished fit for the process that takes over after a kill.

One `.npy` file each, read by memory map, never pickled.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import ModelUnavailableError


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


logger = logging.getLogger(__name__)

FORMAT = "2"
"""To be raised with every change of what a stage holds: a hub that was updated meanwhile starts such a training over."""

LEAST_GAP_S = 10.0
"""A stage that is saved again and again is saved at most so often."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """One stage: its arrays by name, and facts as JSON values."""

    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]


class FitCheckpoint:
    """One safetensors file per stage, replaced whole.

    Args:
        folder: An existing folder that outlives the process; without one nothing is kept.
        owner: Id of the training; what another one left is not seen.
    """

    def __init__(self, folder: Path | None = None, owner: str = "") -> None:
        self._folder = folder
        self._owner = owner
        self._saved_s = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last saving, or the begin, is long enough ago."""
        return self._folder is not None and time.monotonic() - self._saved_s >= LEAST_GAP_S

    def save(self, stage: str, arrays: Arrays, facts: Mapping[str, Any] | None = None) -> None:
        """Write a stage; a kill in between leaves the one before. Without room on the disk there is none, and the fit goes on."""
        if self._folder is None:
            return
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        path = self._path(stage)
        partial = path.with_suffix(".partial")
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        notes = {"format": FORMAT, "owner": self._owner, "facts": json.dumps(dict(facts or {}))}
        self._saved_s = time.monotonic()
        try:
            save_file(whole, partial, metadata=notes)
            os.replace(partial, path)
        except (SafetensorError, OSError) as error:
            logger.warning("The checkpoint %s cannot be written (%s); a killed training would start over.", stage, error)
            partial.unlink(missing_ok=True)

    def load(self, stage: str) -> Saved | None:
        """Read a stage of this training; None when there is none or it cannot be read."""
        if self._folder is None or not self._path(stage).is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(stage), framework="np") as content:
                notes = content.metadata() or {}
                if (notes.get("format"), notes.get("owner")) != (FORMAT, self._owner):
                    return None
                arrays = {name: content.get_tensor(name) for name in content.keys()}
                return Saved(arrays, json.loads(notes["facts"]))
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            logger.warning("The checkpoint %s cannot be read (%s); that part is done again.", stage, error)
            return None

    def _path(self, stage: str) -> Path:
        assert self._folder is not None  # noqa: S101  # asked by both callers
        return self._folder / f"{stage}.safetensors"
