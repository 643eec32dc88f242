"""Room on the disk, and files that are still arriving: what is known about the whole of one survives a kill."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aihub.core.files import SPARE_BYTES, write_document
from aihub.models.store.downloads.failures import DiskFullError

FreeBytes = Callable[[Path], int]
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def free_bytes(folder: Path) -> int:
    """Return the bytes that can be written to the disk of `folder`."""
    return shutil.disk_usage(folder).free


def check_room(folder: Path, needed_bytes: int, free: FreeBytes = free_bytes) -> None:
    """Check that `needed_bytes` and some spare fit on the disk of `folder`.

    Raises:
        DiskFullError: They do not; the message says both figures.
    """
    available = free(folder)
    if available < needed_bytes + SPARE_BYTES:
        raise DiskFullError(
            f"This needs {_gib(needed_bytes + SPARE_BYTES)}, and the disk of the state folder has {_gib(available)} free. "
            "Free some space (aihub models cleanup), or set AIHUB_HOME to another disk."
        )


def disk_error(error: OSError) -> DiskFullError | None:
    """Return what to tell when `error` means that the disk is full, else None."""
    if error.errno not in _FULL:
        return None
    return DiskFullError(
        "The disk became full. Free some space (aihub models cleanup) and start again; what has arrived is kept."
    )


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below `folder`; files that vanish meanwhile count as nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


@dataclass(frozen=True, slots=True)
class Whole:
    """The complete file as the source described it.

    Attributes:
        url: Where it comes from.
        validator: Strong ETag or Last-Modified: the same text means the same content. None when the source gives neither.
        size_bytes: Its size; None when the source does not say.
    """

    url: str
    validator: str | None
    size_bytes: int | None


class PartialFile:
    """Bytes of `target` so far, in a hidden private file beside it.

    Not for the event loop: every method touches the disk. One writer at a time.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f".{target.name}.part")
        self._notes = target.with_name(f".{target.name}.part.json")
        self.whole: Whole | None = None
        self.size_bytes = 0

    @property
    def path(self) -> Path:
        return self._path

    def open(self, url: str) -> None:
        """Take up what an earlier run left of `url`; anything else is removed."""
        self.whole = self._read_notes()
        if self.whole is None or self.whole.url != url or not self._path.is_file():
            self.discard()
        else:
            self.size_bytes = self._path.stat().st_size

    def restart(self, whole: Whole) -> None:
        """Begin anew with a source that describes itself so."""
        self.discard()
        write_document(self._notes, {"url": whole.url, "validator": whole.validator, "size_bytes": whole.size_bytes})
        self.whole = whole

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "ab") as file:
            file.write(data)
        self.size_bytes += len(data)

    def discard(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self.whole = None
        self.size_bytes = 0

    def finish(self) -> None:
        """Bring the bytes to the disk and give them their name by one rename."""
        self._path.touch(mode=0o600)  # an empty file has seen no bytes
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        self._path.replace(self._target)
        self._notes.unlink(missing_ok=True)

    def _read_notes(self) -> Whole | None:
        try:
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            return Whole(str(notes["url"]), notes["validator"], notes["size_bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
