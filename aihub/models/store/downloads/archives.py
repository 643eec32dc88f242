"""Unpacking archives from elsewhere: regular files below one folder, bounded in number and bytes, or nothing at all.

Zip only. Links, devices, absolute or climbing paths, names that meet on a file system without case, encrypted members and
bombs are refused before or while they are written (CVE-2024-45436, CVE-2024-6868 and their kin in other programs); sizes in
headers are not believed.
"""

import os
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from aihub.core.errors import InvalidRequestError

MAX_NAME_BYTES = 512
MAX_DEPTH = 16
MAX_RATIO = 200
RATIO_FREE_BYTES = 2**20
_DIRECTORY_ENTRY_BYTES = 46 + MAX_NAME_BYTES
_CHUNK_BYTES = 2**20
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# What zipfile raises for damage, beside its own error: odd versions (NotImplementedError is a RuntimeError), numbers and names.
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)
_ENCRYPTED = 0x1
_DIRECTORY_SIZE = 5  # index of the central directory's size in zipfile's end record


class UnsafeArchiveError(InvalidRequestError):
    """The archive holds something that must not be unpacked, or is damaged; nothing of it is left on disk."""

    code = "unsafe_archive"


def extract_zip(
    archive: Path,
    target: Path,
    *,
    max_bytes: int,
    max_files: int,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Unpack `archive` into the new folder `target` and return the bytes written.

    Args:
        archive: A zip file.
        target: A folder that does not exist yet; its parent does.
        max_bytes: Most bytes of all files together, counted while writing.
        max_files: Most members, folders included.
        on_progress: Called with the bytes written so far; an exception from it stops the work.

    Raises:
        UnsafeArchiveError: Any member is refused or damaged, or a limit is passed. `target` is gone then.
        OSError: The disk is full or not writable. `target` is gone then.
    """
    target.mkdir(mode=0o700)
    try:
        with archive.open("rb") as file:
            _check_directory_size(file, archive.name, max_files)
            with zipfile.ZipFile(file) as members:
                names = _check_members(members.infolist(), archive.name, max_files)
                limit = min(max_bytes, max(RATIO_FREE_BYTES, archive.stat().st_size * MAX_RATIO))
                return _write_all(members, names, target, limit, on_progress)
    except _DAMAGE as error:
        shutil.rmtree(target)
        raise UnsafeArchiveError(f"{archive.name} is not a whole zip archive ({error}). Fetch it again.") from error
    except BaseException:
        shutil.rmtree(target)
        raise


def check_relative_path(name: str) -> PurePosixPath:
    """Return `name`, which somebody else chose, as a path that stays below any folder it is put in.

    Raises:
        UnsafeArchiveError: It is absolute, climbs, has a drive, backslashes or control characters, or is too long or deep.
    """
    parts = name.split("/")
    is_bad = (
        not name.isprintable()
        or "\\" in name
        or ":" in name
        or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES
        or len(parts) > MAX_DEPTH
        or any(part in {"", ".", ".."} or part != part.rstrip(" .") or len(part.encode()) > 255 for part in parts)
    )
    if is_bad:
        raise UnsafeArchiveError(f"{name[:80]!r} is an unsafe path for a file. It is refused.")
    return PurePosixPath(*parts)


def _check_directory_size(file: BinaryIO, name: str, max_files: int) -> None:
    """Refuse a list of members that would fill memory; zipfile reads all of it when it opens the archive."""
    # Any other reading of the end record could differ from the parser's own.
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # private
    if end is None:
        raise UnsafeArchiveError(f"{name} is not a zip archive. Fetch it again.")
    if end[_DIRECTORY_SIZE] > max_files * _DIRECTORY_ENTRY_BYTES:
        raise _too_many(name, max_files)


def _check_members(members: list[zipfile.ZipInfo], name: str, max_files: int) -> dict[str, PurePosixPath]:
    """Return the safe relative path of each member by its stored name."""
    if len(members) > max_files:
        raise _too_many(name, max_files)
    paths: dict[str, PurePosixPath] = {}
    files: set[str] = set()
    folders: set[str] = set()
    for member in members:
        # ZipInfo cuts its name at NUL; the stored name is in orig_filename.
        path = check_relative_path(member.orig_filename.removesuffix("/"))
        _check_kind(member)
        folded = [_fold(part) for part in path.parts]
        key = "/".join(folded)
        above = {"/".join(folded[:depth]) for depth in range(1, len(folded))}
        if key in files or (not member.is_dir() and key in folders) or above & files:
            raise UnsafeArchiveError(f"{name} holds two members that are one file ({member.filename[:80]!r}). It is refused.")
        folders |= above
        (folders if member.is_dir() else files).add(key)
        paths[member.filename] = path
    return paths


def _check_kind(member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    expected = stat.S_IFDIR if member.is_dir() else stat.S_IFREG
    if kind not in {0, expected}:
        raise UnsafeArchiveError(f"{member.filename[:80]!r} in the archive is a link or a device. It is refused.")
    if member.header_offset < 0:
        raise UnsafeArchiveError(f"{member.filename[:80]!r} in the archive lies before its start. Fetch the archive again.")
    if member.flag_bits & _ENCRYPTED:
        raise UnsafeArchiveError(f"{member.filename[:80]!r} in the archive is encrypted. It is refused.")
    if member.compress_type not in _METHODS:
        raise UnsafeArchiveError(f"{member.filename[:80]!r} in the archive is packed by a rare method. It is refused.")


def _write_all(
    members: zipfile.ZipFile,
    paths: dict[str, PurePosixPath],
    target: Path,
    limit: int,
    on_progress: Callable[[int], None] | None,
) -> int:
    written = 0
    for member in members.infolist():
        path = target / paths[member.filename]
        if member.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never through anything that lies there already.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "wb") as out, members.open(member) as packed:
            while piece := packed.read(_CHUNK_BYTES):
                written += len(piece)
                if written > limit:
                    raise UnsafeArchiveError(f"The archive unpacks to more than {limit} bytes, the limit here. It is refused.")
                out.write(piece)
                if on_progress is not None:
                    on_progress(written)
    return written


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _too_many(name: str, max_files: int) -> UnsafeArchiveError:
    return UnsafeArchiveError(f"{name} holds more than {max_files} members, the limit here. It is refused.")
