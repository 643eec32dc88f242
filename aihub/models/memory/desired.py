"""Which models shall be in memory, kept on disk so that a restart brings them back."""

import asyncio
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.concurrency import run_to_end
from aihub.core.files import write_document

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desired:
    """Model ids in the order they were loaded, and those that may not be evicted."""

    loaded: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()


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
            return Desired(_names(document["loaded"]), _names(document["pinned"]))
        except FileNotFoundError:
            return Desired(loaded=self._first)
        except (OSError, ValueError, KeyError, TypeError) as error:
            aside = self._path.with_suffix(".damaged")
            logger.warning("%s is not readable (%s); it is kept as %s and no model is loaded.", self._path, error, aside.name)
            if self._path.exists():
                self._path.replace(aside)
            return Desired()

    def _write(self, desired: Desired) -> None:
        write_document(self._path, {"loaded": list(desired.loaded), "pinned": list(desired.pinned)})


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError("not a list of model ids")
    return tuple(dict.fromkeys(value))
