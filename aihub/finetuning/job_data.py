"""A job's own copies of its data: what happens to the originals later does it no harm. Files of a job are removed here, too."""

import errno
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from aihub.core.concurrency import run_to_end
from aihub.core.errors import InvalidRequestError, NotFoundError, UnavailableError
from aihub.core.principal import Principal
from aihub.documents.service import FileService
from aihub.finetuning.datasets.paths import DATASETS_FOLDER, resolve_dataset_path
from aihub.finetuning.datasets.problems import FileProblems, Param
from aihub.finetuning.datasets.rows import MAX_FILE_BYTES, too_large
from aihub.finetuning.job_folder import JOBS_FOLDER, JobFolder
from aihub.finetuning.schemas import FineTuningRequest

PURPOSE = "fine-tune"
ABANDONED_S = 3600.0
"""No job is accepted for so long (`aihub.finetuning.routes.CREATE_TIMEOUT_S`)."""
_KEPT = frozenset({"tensorboard"})


class JobData:
    """Copies data files into job folders.

    Args:
        files: Uploaded files.
        home: The state folder.
    """

    def __init__(self, files: FileService, home: Path) -> None:
        self._files = files
        self._home = home

    async def copy(self, principal: Principal, request: FineTuningRequest, folder: JobFolder) -> tuple[str, str | None]:
        """Copy what a request names; return what the job calls its training and its validation file.

        Raises:
            NotFoundError: There is no such file.
            InvalidRequestError: An uploaded file has another purpose, or a name leads out of the folder of data sets.
            PayloadTooLargeError: A file is larger than one may be.
            UnavailableError: The disk is full.
        """
        try:
            await run_to_end(folder.path.mkdir, parents=True, exist_ok=False)
            training = await self._copy_one(
                principal, request.training_file, request.dataset_path, folder.training, "training_file"
            )
            if request.validation_file is None and request.validation_dataset_path is None:
                return training, None
            return training, await self._copy_one(
                principal, request.validation_file, request.validation_dataset_path, folder.validation, "validation_file"
            )
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise _disk_full() from error

    async def _copy_one(self, principal: Principal, file_id: str | None, name: str | None, target: Path, param: Param) -> str:
        if file_id is not None:
            await self._download(principal, file_id, target, param)
            return file_id
        if name is None:
            raise InvalidRequestError(f"'{param}' is required.", param=param, code="missing_required_parameter")
        field = "dataset_path" if param == "training_file" else "validation_dataset_path"
        source = await run_to_end(resolve_dataset_path, name, self._home, field)
        await run_to_end(_copy_file, source, target, "dataset_path" if param == "training_file" else param)
        return f"{DATASETS_FOLDER}/{name}"

    async def _download(self, principal: Principal, file_id: str, target: Path, param: Param) -> None:
        try:
            file = await self._files.get(principal, file_id)
            if file.purpose != PURPOSE:
                raise InvalidRequestError(
                    f"The file {file_id} was uploaded for {file.purpose!r}. Upload it with the purpose {PURPOSE!r}.",
                    param=param,
                    code="invalid_file_purpose",
                )
            await run_to_end(_require_room, target.parent, file.bytes)
            _, pieces = await self._files.content(principal, file_id)
        except NotFoundError as error:
            raise NotFoundError(
                f"There is no file {file_id!r}. Upload it by POST /v1/files with the purpose {PURPOSE!r}.",
                param=param,
                code="file_not_found",
            ) from error
        await _write(pieces, target, param)


async def _write(pieces: AsyncIterator[bytes], target: Path, param: Param) -> None:
    size_bytes = 0
    file = _NewFile(target)
    try:
        async for piece in pieces:
            size_bytes += len(piece)
            if size_bytes > MAX_FILE_BYTES:
                raise too_large(FileProblems(param))
            await run_to_end(file.write, piece)
    finally:
        await run_to_end(file.close)


class _NewFile:
    """A file that is opened by its first write, so that a cancelled caller has what it opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def write(self, piece: bytes) -> None:
        if self._file is None:
            self._file = self._path.open("wb")
        self._file.write(piece)

    def close(self) -> None:
        if self._file is None:
            self._path.touch()
        else:
            self._file.close()


def _copy_file(source: Path, target: Path, param: Param) -> None:
    size_bytes = source.stat().st_size
    if size_bytes > MAX_FILE_BYTES:
        raise too_large(FileProblems(param))
    _require_room(target.parent, size_bytes)
    shutil.copyfile(source, target)


def _require_room(folder: Path, size_bytes: int) -> None:
    """Check that the disk has room for a copy and as much again, for what the training and the hub write beside it."""
    if shutil.disk_usage(folder).free < 2 * size_bytes:
        raise _disk_full()


def _disk_full() -> UnavailableError:
    return UnavailableError(
        "The hub's disk is full, so the data could not be copied. Make room and send the job again.",
        code="no_disk_space",
        retry_after_s=60,
    )


def remove_folder(folder: JobFolder) -> None:
    """Remove all files of a job. Blocking."""
    shutil.rmtree(folder.path, ignore_errors=True)


def remove_work(folder: JobFolder) -> None:
    """Remove a job's data, checkpoints and candidate; its TensorBoard logs stay. Blocking."""
    with suppress(FileNotFoundError):
        for path in list(folder.path.iterdir()):
            if path.name in _KEPT:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.path.rmdir()


def has_work(folder: JobFolder) -> bool:
    """Whether a job can go on: its data and a checkpoint are there. Blocking."""
    try:
        return folder.training.is_file() and any(folder.work.iterdir())
    except OSError:
        return False


def find_folders(home: Path, *, older_than_s: float) -> set[str]:
    """Return the ids of the jobs that have a folder to which nothing was added for so long. Blocking."""
    latest_s = time.time() - older_than_s
    root = home / JOBS_FOLDER
    found: set[str] = set()
    for path in root.iterdir() if root.is_dir() else ():
        with suppress(FileNotFoundError):  # its request has just been refused
            if path.stat().st_mtime < latest_s:
                found.add(path.name)
    return found
