"""The index of one model's installs: which version is current, which is pinned, which were current before.

The folders are the truth and the index follows them, as a kill may come between a rename and the write of the index.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aihub.core.files import write_document

_HEX_DIGEST = re.compile(r"[0-9a-f]{12,128}")


@dataclass(slots=True)
class InstallIndex:
    """What is stored in `index.json`; versions are named by their folders.

    Attributes:
        key: The model.
        current: The version in use.
        pinned: The version that stays in use.
        history: Versions that were current, oldest first.
        installed_at: Seconds since 1970 by version.
    """

    key: str
    current: str | None = None
    pinned: str | None = None
    history: list[str] = field(default_factory=list)
    installed_at: dict[str, float] = field(default_factory=dict)

    def make_current(self, name: str) -> None:
        """Use a version, and remember that it was used."""
        self.current = name
        self.history = [*(earlier for earlier in self.history if earlier != name), name]

    def forget(self, name: str) -> None:
        """Drop a version; the one used before it becomes current."""
        self.history = [earlier for earlier in self.history if earlier != name]
        self.installed_at.pop(name, None)
        if self.current == name:
            self.current = self.history[-1] if self.history else None

    def write(self, path: Path) -> None:
        """Store it by one rename."""
        write_document(path, asdict(self))


def read_index(path: Path, key: str, folders: Mapping[str, float]) -> InstallIndex:
    """Return the index as it fits the folders.

    Args:
        path: `index.json`; may be missing or damaged.
        key: The model.
        folders: Whole version folders with their times of change.
    """
    stored = json_or_none(path) or {}
    index = InstallIndex(key=key)
    if isinstance(stored.get("history"), list):
        index.history = [name for name in stored["history"] if name in folders]
    if isinstance(stored.get("installed_at"), dict):
        index.installed_at = {name: float(at) for name, at in stored["installed_at"].items() if name in folders}
    index.pinned = next((name for name in folders if name == stored.get("pinned")), None)
    index.current = next((name for name in folders if name == stored.get("current")), None)
    if index.current is None:
        newest = max(folders, key=lambda name: index.installed_at.get(name, folders[name]), default=None)
        index.current = index.pinned or (index.history[-1] if index.history else newest)
    return index


def normalize_digest(digest: str) -> str:
    """Return a digest as lower hex without its algorithm; any other name of a version (a date, a tag) by its SHA-256."""
    text = digest.removeprefix("sha256:").lower()
    return text if _HEX_DIGEST.fullmatch(text) else hashlib.sha256(digest.encode()).hexdigest()


def json_or_none(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
