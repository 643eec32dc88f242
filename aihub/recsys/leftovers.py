"""What trainings leave in the state folder when they are killed: checkpoints, and Ray's notes of a run."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aihub.recsys.artifacts import CHECKPOINTS

RESULTS = "results"
RUN_NOTES = "training"
LEAST_AGE_S = 60.0
"""A folder that was changed since is left alone: its training may be about to remove it itself."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """A folder that belongs to one training."""

    training_id: str
    path: Path


def find_leftovers(home: Path) -> list[Leftover]:
    """Return the folders of all trainings of all tenants under the state folder, running ones included. Blocking."""
    newest_s = time.time() - LEAST_AGE_S
    return [Leftover(path.name, path) for path in _folders(home) if _changed_s(path) < newest_s]


def remove_leftovers(leftovers: list[Leftover]) -> None:
    """Remove these folders; one that cannot be removed stays for the next time. Blocking."""
    for leftover in leftovers:
        shutil.rmtree(leftover.path, ignore_errors=True)


def _folders(home: Path) -> Iterator[Path]:
    for stores in ("store_*", "tenants/*/store_*"):
        yield from (home / RESULTS).glob(f"{stores}/*/{CHECKPOINTS}/*")
    yield from (home / RUN_NOTES).glob("*")


def _changed_s(path: Path) -> float:
    try:
        return max((one.stat().st_mtime for one in (path, *path.iterdir())), default=0.0)
    except OSError:  # its training has removed it meanwhile
        return float("inf")
