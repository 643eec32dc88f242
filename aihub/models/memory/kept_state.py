"""What the model manager keeps on disk over a restart: who shall be in memory, and how much each model was seen to use."""

import asyncio
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.concurrency import run_to_end
from aihub.core.files import write_document
from aihub.models.memory.host import ModelSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desired:
    """Who shall be in memory.

    Attributes:
        loaded: Model ids in the order they were loaded.
        pinned: Those that may not be evicted.
        displaced: Those that made room for a training and are loaded again when it has ended.
        trainings: Holders that have room for a training, with its bytes.
    """

    loaded: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    displaced: tuple[str, ...] = ()
    trainings: tuple[tuple[str, int], ...] = ()


class DesiredState:
    """One JSON file, replaced by an atomic rename.

    An unreadable file counts as empty and is moved aside: a hub that starts without its models is better than none.

    Args:
        path: The file.
        first: Models to load where there is no file yet.
    """

    def __init__(self, path: Path, first: tuple[str, ...] = ()) -> None:
        self._path = path
        self._first = first
        self._lock = asyncio.Lock()

    async def read(self) -> Desired:
        return await asyncio.to_thread(self._read)

    async def write(self, desired: Desired) -> None:
        """Replace the file; writes are done in the order of the calls.

        Raises:
            OSError: The state folder cannot be written.
        """
        async with self._lock:
            await run_to_end(self._write, desired)

    def _read(self) -> Desired:
        try:
            document: Any = json.loads(self._path.read_text(encoding="utf-8"))
            return Desired(
                _names(document["loaded"]),
                _names(document["pinned"]),
                _names(document.get("displaced", [])),
                _sizes(document.get("trainings", {})),
            )
        except FileNotFoundError:
            return Desired(loaded=self._first)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            aside = self._path.with_suffix(".damaged")
            logger.warning("%s is not readable (%s); it is kept as %s and no model is loaded.", self._path, error, aside.name)
            if self._path.exists():
                self._path.replace(aside)
            return Desired()

    def _write(self, desired: Desired) -> None:
        document = {
            "loaded": list(desired.loaded),
            "pinned": list(desired.pinned),
            "displaced": list(desired.displaced),
            "trainings": dict(desired.trainings),
        }
        write_document(self._path, document)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("not a list of model ids")
    return tuple(dict.fromkeys(value))


def _sizes(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, dict) or not all(type(size) is int and size > 0 for size in value.values()):
        raise ValueError("not sizes by holder")
    return tuple(sorted(value.items()))


MAX_ENTRIES = 512


class HighWaterMarks:
    """The largest memory each model was seen to use.

    The file is read once; `save` writes it when something grew. Unreadable content counts as no measurements.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._high_water_marks: dict[str, int] = {}
        self._is_changed = False

    def load(self) -> None:
        """Read the file, if there is one (blocking)."""
        if self._path is None:
            return
        try:
            document: Any = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            logger.warning("%s is not readable (%s); memory is estimated until it is measured again.", self._path, error)
            return
        if isinstance(document, dict):
            self._high_water_marks = {str(key): size for key, size in document.items() if type(size) is int and size > 0}

    def record(self, spec: ModelSpec, used_bytes: int) -> None:
        """Note a measurement; only a new high-water mark counts."""
        key = _key(spec)
        if used_bytes > self._high_water_marks.get(key, 0):
            self._high_water_marks.pop(key, None)
            self._high_water_marks[key] = used_bytes  # the newest stand last
            self._is_changed = True
            while len(self._high_water_marks) > MAX_ENTRIES:
                del self._high_water_marks[next(iter(self._high_water_marks))]

    def save(self) -> None:
        """Write the file when a high-water mark grew since the last call (blocking).

        Raises:
            OSError: The state folder cannot be written.
        """
        if self._path is None or not self._is_changed:
            return
        self._is_changed = False
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._high_water_marks, indent=1), encoding="utf-8")
        partial.replace(self._path)

    def is_measured(self, spec: ModelSpec) -> bool:
        """Whether a high-water mark is known."""
        return _key(spec) in self._high_water_marks

    def need_bytes(self, spec: ModelSpec) -> int:
        """What the model must be given: its measured high-water mark, else the estimate.

        Never less than weights and KV cache: an engine that has served little has not touched all of its cache yet.
        """
        peak = self._high_water_marks.get(_key(spec))
        return spec.requirement.total_bytes if peak is None else max(peak, spec.requirement.certain_bytes)


def _key(spec: ModelSpec) -> str:
    """What a measurement holds for; another context, batch or version is another measurement."""
    parts = (spec.key, spec.digest, spec.device, spec.context_tokens, spec.max_num_seqs, spec.quantization or "")
    return "|".join(map(str, parts))
