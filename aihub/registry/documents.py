"""Small JSON files of the state folder: written whole or not at all, and lists that only grow."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aihub.registry.publish import sync_path


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Replace the file by one rename; a kill at any moment leaves the old content or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Add one JSON line. A line is one write in append mode, so lines of several processes never mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(content, ensure_ascii=False, sort_keys=True) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file, oldest first; a line cut by a kill is left out, no file is no lines."""
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found
