"""Speech models: one zip archive from their publisher, unpacked to a folder that Vosk can open."""

import asyncio
import shutil
from pathlib import Path

from aihub.core.concurrency import run_to_end
from aihub.core.errors import InvalidRequestError
from aihub.core.model_folder import REFUSED_SUFFIXES
from aihub.models.store.downloads.archives import UnsafeArchiveError, extract_zip
from aihub.models.store.downloads.disk import FreeBytes, check_room, free_bytes
from aihub.models.store.downloads.failures import CorruptDownloadError, RetryPolicy
from aihub.models.store.downloads.orders import Fetched, Order, Report
from aihub.models.store.downloads.transfer import RemoteFile, download_file

ARCHIVE_NAME = "model.zip"
UNPACKED_RATIO = 3
"""Published speech models unpack to 1.2 to 2.2 times their archive."""
UNKNOWN_SIZE_BYTES = 4 * 2**30
MAX_UNPACKED_BYTES = 32 * 2**30
MAX_FILES = 1000

# A model has either all files of the first layout or all of the second (the one before 2020).
_LAYOUTS = (("am/final.mdl", "conf/mfcc.conf"), ("final.mdl", "mfcc.conf"))


class ArchiveFetcher:
    """Gets models whose catalogue entry has a `source_url`."""

    def __init__(self, *, retry_policy: RetryPolicy = RetryPolicy(), free: FreeBytes = free_bytes) -> None:  # noqa: B008  # frozen
        self._retry_policy = retry_policy
        self._free = free

    async def fetch(self, order: Order, report: Report) -> Fetched:
        """Download, verify and unpack. An archive whose SHA-256 is not published is only fetched when nothing is installed.

        Raises:
            InvalidRequestError: The catalogue has no archive for this key.
            DownloadError: The archive cannot be had, is damaged or holds no speech model.
        """
        entry = order.entry
        if entry is None or entry.source_url is None:
            raise InvalidRequestError(f"The catalogue has no archive for {order.key}. Add one to configs/models.", param="key")
        if order.installed is not None and entry.sha256 in {None, order.installed}:
            return Fetched(order.installed, entry.source_url, None)
        size_bytes = entry.size_bytes or UNKNOWN_SIZE_BYTES // (1 + UNPACKED_RATIO)
        await asyncio.to_thread(check_room, order.staging, size_bytes * (1 + UNPACKED_RATIO), self._free)
        archive = order.staging / ARCHIVE_NAME
        sha256 = await download_file(
            RemoteFile(entry.source_url, entry.sha256, entry.size_bytes),
            archive,
            timeout_s=order.configuration.model_download_timeout_s,
            retry_policy=self._retry_policy,
            proxy=order.configuration.download_proxy,
            on_bytes=lambda done, total: report("downloading", done, total),
        )
        report("unpacking", 0, None)
        await run_to_end(_unpack, archive, order.content)
        return Fetched(sha256, entry.source_url, order.content)


def _unpack(archive: Path, content: Path) -> None:
    """Unpack to `content` without the archive's one top folder; the archive is removed, whatever comes of it."""
    unpacked = content.with_name("unpacked")
    for leftover in (unpacked, content):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        extract_zip(archive, unpacked, max_bytes=MAX_UNPACKED_BYTES, max_files=MAX_FILES)
    except UnsafeArchiveError as error:
        raise CorruptDownloadError(error.message) from error
    finally:
        archive.unlink()
    top = list(unpacked.iterdir())
    root = top[0] if len(top) == 1 and top[0].is_dir() else unpacked
    try:
        check_speech_folder(root)
        root.rename(content)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def check_speech_folder(folder: Path) -> None:
    """Check that Vosk can open `folder` and that nothing in it can carry code.

    Raises:
        CorruptDownloadError: It cannot, or something can; the message names the file.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in REFUSED_SUFFIXES:
            raise CorruptDownloadError(f"The archive holds {path.name}, a kind of file that may carry code. It was refused.")
    if not any(all((folder / name).is_file() for name in layout) for layout in _LAYOUTS):
        raise CorruptDownloadError("The archive holds no speech model: am/final.mdl or conf/mfcc.conf is missing.")
