"""Room on the disk, asked before a download starts, and what a full disk is called."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

from aihub.registry.downloads.errors import DiskFullError
from aihub.registry.publish import SPARE_BYTES

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
