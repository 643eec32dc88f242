"""Model folders of many stores: those in memory, the least recently used closed first, and what killed trainings left behind."""

import asyncio
import math
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.recsys.artifacts import CHECKPOINTS, ArtifactStore, ModelType

Loader = Callable[[Path], Any]
Key = tuple[str, int, ModelType]

_FRESH_S = 0.5
"""For so long the name of the served version is believed without another look at the disk."""
_USABLE_S = 1.0
"""For so long a model is used while somebody looks."""


@dataclass(slots=True)
class OpenModel:
    """A loaded model and the version it is of."""

    version: str
    model: Any
    seen_s: float


class OpenModels:
    """At most `most` models are kept; opening one maps its files and checks their hashes.

    Args:
        artifacts: The store of a tenant.
        loaders: How each type is opened.
        most: Models kept, the memory that they map is given back by the system when it is short.
    """

    def __init__(self, artifacts: Callable[[str], ArtifactStore], loaders: dict[ModelType, Loader], *, most: int = 32) -> None:
        self._artifacts = artifacts
        self._loaders = loaders
        self._most = most
        self._open: OrderedDict[Key, OpenModel] = OrderedDict()
        self._opening: dict[Key, asyncio.Task[OpenModel]] = {}

    def __len__(self) -> int:
        return len(self._open)

    async def get(self, tenant: str, store_id: int, model_type: ModelType) -> OpenModel:
        """Return the served version; concurrent callers wait for one load.

        Raises:
            NotFoundError: The store has no such model.
            ModelDamagedError: Its files are not what was written.
        """
        key: Key = (tenant, store_id, model_type)
        found = self._open.get(key)
        age_s = math.inf if found is None else time.monotonic() - found.seen_s
        if found is not None and age_s < _FRESH_S:
            self._open.move_to_end(key)
            return found
        task = self._opening.get(key)
        if task is None:
            task = asyncio.create_task(self._refresh(key, found))
            self._opening[key] = task
            task.add_done_callback(lambda done: self._land(key, done))
        return found if found is not None and age_s < _USABLE_S else await asyncio.shield(task)

    def _land(self, key: Key, task: asyncio.Task[OpenModel]) -> None:
        """Forget a finished task; its error belongs to those who waited, and they may all have left."""
        self._opening.pop(key, None)
        if not task.cancelled():
            task.exception()

    async def _refresh(self, key: Key, found: OpenModel | None) -> OpenModel:
        try:
            opened = await asyncio.to_thread(self._read, key, found)
        except Exception:
            self._open.pop(key, None)
            raise
        self._open[key] = opened
        self._open.move_to_end(key)
        while len(self._open) > self._most:
            self._open.popitem(last=False)
        return opened

    def _read(self, key: Key, found: OpenModel | None) -> OpenModel:
        tenant, store_id, model_type = key
        artifacts = self._artifacts(tenant)
        now = time.monotonic()
        if found is not None and artifacts.current_name(store_id, model_type) == found.version:
            return OpenModel(found.version, found.model, now)
        version = artifacts.open(store_id, model_type)
        return OpenModel(version.name, self._loaders[model_type](version.path), now)


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
