"""A file that is still arriving, and what is known about the whole of it; both survive a kill."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from aihub.registry.documents import write_document


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
