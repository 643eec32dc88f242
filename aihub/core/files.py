"""Files and folders of the state folder, written whole or not at all.

A folder is built hidden beside its place and published by one rename: a kill at any moment leaves either none or a complete
one. A manifest inside carries what was built from what, with size and SHA-256 of each file. Small JSON files are replaced the
same way; lists only grow.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aihub.core.errors import ConfigurationError
from aihub.core.progress import Progress, no_progress

MANIFEST_NAME = "aihub-manifest.json"
LOCK_TIMEOUT_S = 1800.0
SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Origin:
    """What a published folder was made from; a folder of another origin is built anew.

    Attributes:
        source: `package:...`, `hf:org/name` or `folder:...`; `hub:org/name` in folders that hubs of before downloaded.
        version: Version of the package or commit of the hub model; None accepts any.
        recipe: Number of the building code; raised whenever its result changes.
    """

    source: str
    version: str | None
    recipe: int = 1


def is_published(target: Path, origin: Origin) -> bool:
    """Whether `target` is complete, by its manifest and the sizes of its files, and of this origin. Takes milliseconds."""
    manifest = read_manifest(target)
    if manifest is None or manifest["source"] != origin.source or manifest["recipe"] != origin.recipe:
        return False
    if origin.version is not None and manifest["version"] != origin.version:
        return False
    return has_all_files(target, manifest)


def has_all_files(target: Path, manifest: dict[str, Any]) -> bool:
    """Whether every file of the manifest is there with its size; contents are not read."""
    return all(_size_of(target / name) == entry["size_bytes"] for name, entry in manifest["files"].items())


def damaged_files(target: Path) -> list[str]:
    """Names of files in a published folder which are gone or whose SHA-256 is no longer the manifest's.

    Raises:
        ConfigurationError: The folder has no manifest.
    """
    manifest = read_manifest(target)
    if manifest is None:
        raise ConfigurationError(f"{target} was not made by the hub: it has no readable {MANIFEST_NAME}.")
    files = manifest["files"].items()
    return [name for name, entry in files if not (target / name).is_file() or file_sha256(target / name) != entry["sha256"]]


def publish_folder(
    target: Path,
    origin: Origin,
    build: Callable[[Path], None],
    *,
    needed_bytes: int,
    progress: Progress,
) -> Path:
    """Return `target`, built by `build` unless it is there already; safe for any number of processes at once.

    Args:
        target: The folder to publish.
        origin: What it is made from.
        build: Fills the empty folder it is given.
        needed_bytes: Size of the result; the disk must have that and some spare.
        progress: Called while waiting and hashing.

    Raises:
        ConfigurationError: Disk full, another process holds the lock too long, or `target` holds something else.
    """
    if is_published(target, origin):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(target, progress):
            if not is_published(target, origin):
                _build_and_swap(target, origin, build, needed_bytes, progress)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ConfigurationError(f"The disk of {target.parent} is full. Free {_gib(needed_bytes)} and try again.") from error
        if isinstance(error, PermissionError):
            raise ConfigurationError(f"{target.parent} cannot be written. Set AIHUB_HOME to a folder of yours.") from error
        raise
    return target


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as lower hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def hold_lock(target: Path, progress: Progress = no_progress) -> Iterator[None]:
    """Hold the lock of one target across processes; the kernel frees it when its holder dies.

    Raises:
        ConfigurationError: Another process holds it too long.
    """
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"Waiting for another process that prepares {target.name}", 0.0)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT_S)
        except Timeout as error:
            minutes = LOCK_TIMEOUT_S / 60
            raise ConfigurationError(
                f"Another process has been preparing {target.name} for {minutes:.0f} minutes. Stop it and try again."
            ) from error
        progress(f"Waiting for another process that prepares {target.name}", 1.0)
    try:
        yield
    finally:
        lock.release()


def _build_and_swap(
    target: Path,
    origin: Origin,
    build: Callable[[Path], None],
    needed_bytes: int,
    progress: Progress,
) -> None:
    """Build beside the target and publish; the caller holds the lock, so what lies in the way is a dead build's."""
    partial = target.parent / f".{target.name}.partial"
    _remove(partial)
    _check_room(target, needed_bytes)
    partial.mkdir()
    try:
        build(partial)
        write_manifest(partial, origin, progress)
        move_into_place(partial, target)
    except BaseException:
        _remove(partial)
        raise


def _check_room(target: Path, needed_bytes: int) -> None:
    if target.exists() and read_manifest(target) is None:
        raise ConfigurationError(f"{target} is in the way: it was not made by the hub. Move it elsewhere and start again.")
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < needed_bytes + SPARE_BYTES:
        raise ConfigurationError(
            f"{target.name} needs {_gib(needed_bytes + SPARE_BYTES)}; the disk of {target.parent} has {_gib(free_bytes)} free. "
            "Free some space or set AIHUB_HOME to another disk."
        )


def write_manifest(folder: Path, origin: Origin, progress: Progress = no_progress) -> None:
    """Write the manifest of a finished folder and bring everything to the disk; reads every byte once."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME)
    entries: dict[str, dict[str, Any]] = {}
    for done, path in enumerate(files):
        progress("Checking files", done / len(files))
        entries[path.relative_to(folder).as_posix()] = {"size_bytes": path.stat().st_size, "sha256": file_sha256(path)}
        sync_path(path)
    manifest = {"source": origin.source, "version": origin.version, "recipe": origin.recipe, "files": entries}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync_path(folder / MANIFEST_NAME)
    sync_path(folder)
    progress("Checking files", 1.0)


def move_into_place(partial: Path, target: Path) -> None:
    """Publish `partial` as `target` by one rename; an old folder steps aside, as rename cannot replace one with content."""
    old = target.parent / f".{target.name}.old"
    _remove(old)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    sync_path(target.parent)
    _remove(old)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return `source`, `version`, `recipe` and `files` of a published folder, or None when there is no whole manifest."""
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(manifest, dict) and {"source", "version", "recipe", "files"} <= manifest.keys()
    return manifest if is_whole else None


def sync_path(path: Path) -> None:
    """Bring a file's content or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


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
