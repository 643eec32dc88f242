"""Trained models on disk: `results/store_{id}/{model_type}/{version}/`, published whole, served by a pointer.

Each version carries a manifest with the SHA-256 of its files and `card.json` with its figures. `current.json` beside the
versions names the served one and those served before it; it is replaced by one rename, so readers see the old or the new.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from aihub.core.errors import ConflictError, InternalError, InvalidRequestError, NotFoundError
from aihub.core.files import Origin, damaged_files, hold_lock, move_into_place, read_manifest, write_document, write_manifest
from aihub.core.principal import DEFAULT_TENANT

ModelType = Literal["recommendation", "trending", "next_item"]
MODEL_TYPES: tuple[ModelType, ...] = get_args(ModelType)

POINTER = "current.json"
CARD = "card.json"
Metrics = Mapping[str, float]

_TENANT = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_VERSION = re.compile(r"^[0-9]{6,}$")
_RECIPE = 1
CHECKPOINTS = ".checkpoints"


class ModelDamagedError(ConflictError):
    """A published model is not what was written."""

    code = "model_damaged"


@dataclass(frozen=True, slots=True)
class Gate:
    """Which figure decides whether a new version is served.

    Attributes:
        metric: Name in the figures of the held-out data.
        larger_is_better: How two values compare.
    """

    metric: str
    larger_is_better: bool = True

    def admits(self, metrics: Metrics, incumbent: Metrics | None) -> bool:
        """Whether the new figures are not worse than the served model's on the same data."""
        if incumbent is None:
            return True
        new, old = metrics[self.metric], incumbent[self.metric]
        return new >= old if self.larger_is_better else new <= old


GATES: dict[ModelType, Gate] = {
    "recommendation": Gate("ndcg_10"),
    "trending": Gate("wape", larger_is_better=False),
    "next_item": Gate("mrr@20"),
}


@dataclass(frozen=True, slots=True)
class Version:
    """One published version.

    Attributes:
        name: Six digits or more, growing.
        path: Its folder.
        is_served: Whether `current.json` names it.
        metrics: Its figures on the data held out when it was trained.
        card: Everything in `card.json`.
    """

    name: str
    path: Path
    is_served: bool
    metrics: dict[str, float]
    card: dict[str, Any]


class ArtifactStore:
    """The models of all stores of one tenant. All methods block; call them in a thread.

    Args:
        root: `results` in the state folder.
        tenant: The default tenant's stores lie directly in `root`, another's in `root/tenants/{tenant}`.
        keep: Versions kept beside the served one.
    """

    def __init__(self, root: Path, *, tenant: str = DEFAULT_TENANT, keep: int = 3) -> None:
        if not _TENANT.match(tenant):
            raise InternalError("A tenant's name must be letters, digits, - and _ to be a folder.")
        self._root = root if tenant == DEFAULT_TENANT else root / "tenants" / tenant
        self._keep = keep

    def folder(self, store_id: int, model_type: ModelType) -> Path:
        """Return the folder of all versions of one model; it need not exist."""
        if model_type not in MODEL_TYPES:
            raise InvalidRequestError(f"model_type must be one of {', '.join(MODEL_TYPES)}.", param="model_type")
        return self._root / f"store_{int(store_id)}" / model_type

    def checkpoint_folder(self, store_id: int, model_type: ModelType, training_id: str) -> Path:
        """Return a folder for the state of an unfinished training; what other trainings have left is removed."""
        path = self.folder(store_id, model_type) / CHECKPOINTS / training_id
        path.mkdir(parents=True, exist_ok=True)
        for other in path.parent.iterdir():
            if other != path:
                shutil.rmtree(other, ignore_errors=True)
        return path

    def clear_checkpoint(self, store_id: int, model_type: ModelType, training_id: str) -> None:
        shutil.rmtree(self.folder(store_id, model_type) / CHECKPOINTS / training_id, ignore_errors=True)

    def current(self, store_id: int, model_type: ModelType) -> Version:
        """Return the served version.

        Raises:
            NotFoundError: There is none; the message says how to train.
        """
        name = self._pointer(store_id, model_type)["version"]
        if name is None:
            raise _untrained(store_id, model_type)
        return self._read(store_id, model_type, name)

    def current_name(self, store_id: int, model_type: ModelType) -> str:
        """Return the name of the served version; one small file is read.

        Raises:
            NotFoundError: There is none; the message says how to train.
        """
        name: str | None = self._pointer(store_id, model_type)["version"]
        if name is None:
            raise _untrained(store_id, model_type)
        return name

    def versions(self, store_id: int, model_type: ModelType) -> list[Version]:
        """Return all versions, newest first."""
        return [self._read(store_id, model_type, name) for name in reversed(self._names(store_id, model_type))]

    def open(self, store_id: int, model_type: ModelType) -> Version:
        """Return the served version after comparing all its files with the manifest.

        Raises:
            NotFoundError: There is none.
            ModelDamagedError: A file is damaged or gone; the message says how to go on.
        """
        version = self.current(store_id, model_type)
        damaged = damaged_files(version.path) if read_manifest(version.path) else ["its manifest"]
        if damaged:
            raise ModelDamagedError(
                f"The {model_type} model of store {store_id} (version {version.name}) is damaged: {', '.join(damaged)}. "
                f"Train it again, or go back with `aihub recsys rollback {store_id} {model_type}`."
            )
        return version

    def publish(
        self,
        store_id: int,
        model_type: ModelType,
        build: Callable[[Path], None],
        *,
        metrics: Metrics,
        incumbent_metrics: Metrics | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> Version:
        """Publish a version, and serve it unless it is worse than the served one on the same held-out data.

        Args:
            store_id: Number of the store.
            model_type: Which model.
            build: Writes the files into the empty folder it is given.
            metrics: Figures of the new version.
            incumbent_metrics: Figures of the served version on the same data; None when there is none to compare.
            card: More to remember: hyper-parameters, chosen model, numbers of rows.
        """
        folder = self.folder(store_id, model_type)
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder):
            name = f"{max(map(int, self._names(store_id, model_type)), default=0) + 1:06}"
            partial = folder / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                build(partial)
                is_served = GATES[model_type].admits(metrics, incumbent_metrics)
                content = dict(card or {}) | {
                    "store_id": store_id,
                    "model_type": model_type,
                    "version": name,
                    "metrics": dict(metrics),
                    "incumbent_metrics": None if incumbent_metrics is None else dict(incumbent_metrics),
                    "created_at": int(time.time()),
                }
                write_document(partial / CARD, content)
                write_manifest(partial, Origin(f"recsys:store_{store_id}/{model_type}", name, _RECIPE))
                move_into_place(partial, folder / name)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            if is_served:
                self._serve(store_id, model_type, name)
            self._prune(store_id, model_type)
        return self._read(store_id, model_type, name)

    def finish_publishing(self, store_id: int, model_type: ModelType, version: Version) -> Version:
        """Serve a version whose process was killed between writing and serving it; one that is not to be served stays so."""
        if not GATES[model_type].admits(version.metrics, version.card["incumbent_metrics"]):
            return version
        with hold_lock(self.folder(store_id, model_type)):
            served = self._pointer(store_id, model_type)["version"]
            if served is None or int(served) < int(version.name):  # else a later one was published since
                self._serve(store_id, model_type, version.name)
        return self._read(store_id, model_type, version.name)

    def rollback(self, store_id: int, model_type: ModelType) -> Version:
        """Serve the version that was served before.

        Raises:
            NotFoundError: No model was ever served.
            ConflictError: There is nothing to go back to.
        """
        folder = self.folder(store_id, model_type)
        if not folder.is_dir():
            raise _untrained(store_id, model_type)
        with hold_lock(folder):
            pointer = self._pointer(store_id, model_type)
            earlier = [name for name in pointer["before"] if (folder / name).is_dir()]
            if pointer["version"] is None:
                raise _untrained(store_id, model_type)
            if not earlier:
                raise ConflictError(
                    f"Version {pointer['version']} of store {store_id}'s {model_type} model is the only one that was served; "
                    "there is nothing to go back to.",
                    code="no_earlier_version",
                )
            write_document(folder / POINTER, {"version": earlier[-1], "before": earlier[:-1]})
        return self._read(store_id, model_type, earlier[-1])

    def _serve(self, store_id: int, model_type: ModelType, name: str) -> None:
        try:
            pointer = self._pointer(store_id, model_type)
        except ModelDamagedError:
            pointer = {"version": None, "before": []}
        before = [*pointer["before"], pointer["version"]] if pointer["version"] else []
        write_document(self.folder(store_id, model_type) / POINTER, {"version": name, "before": before[-self._keep :]})

    def _prune(self, store_id: int, model_type: ModelType) -> None:
        """Remove old versions; never the served one, and those served before it stay as long as rollback may want them."""
        pointer = self._pointer(store_id, model_type)
        names = self._names(store_id, model_type)
        wanted = {pointer["version"], *pointer["before"][-self._keep :], *names[-self._keep :]}
        for name in names:
            if name not in wanted:
                shutil.rmtree(self.folder(store_id, model_type) / name, ignore_errors=True)

    def _pointer(self, store_id: int, model_type: ModelType) -> dict[str, Any]:
        try:
            content = json.loads((self.folder(store_id, model_type) / POINTER).read_text(encoding="utf-8"))
            return {"version": str(content["version"]), "before": [str(name) for name in content["before"]]}
        except FileNotFoundError:
            return {"version": None, "before": []}
        except (ValueError, KeyError, TypeError) as error:
            raise ModelDamagedError(f"{POINTER} of store {store_id}'s {model_type} model is damaged. Train it again.") from error

    def _names(self, store_id: int, model_type: ModelType) -> list[str]:
        folder = self.folder(store_id, model_type)
        if not folder.is_dir():
            return []
        return sorted((path.name for path in folder.iterdir() if _VERSION.match(path.name)), key=int)

    def _read(self, store_id: int, model_type: ModelType, name: str) -> Version:
        path = self.folder(store_id, model_type) / name
        try:
            card = json.loads((path / CARD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            card = {}
        is_served = self._pointer(store_id, model_type)["version"] == name
        return Version(name, path, is_served, dict(card.get("metrics", {})), card)


def _untrained(store_id: int, model_type: ModelType) -> NotFoundError:
    verb = model_type.replace("_", "-")
    return NotFoundError(
        f'Store {store_id} has no {model_type} model. Train one: POST /train/{verb} {{"store_id": {store_id}}}, '
        f"or `aihub recsys train {store_id} {verb}`.",
        param="store_id",
        code="model_not_trained",
    )
