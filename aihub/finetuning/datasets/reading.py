"""From a data file to examples."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aihub.core.errors import ConflictError, NotFoundError
from aihub.finetuning.datasets.formats import DatasetFormat, FormatReader
from aihub.finetuning.datasets.problems import FileProblems, Param
from aihub.finetuning.datasets.rows import MAX_FILE_BYTES, Container, RowReader, too_large
from aihub.finetuning.examples import Example

MAX_ROWS = 500_000


class DatasetReader:
    """Reads the examples of one open file once, in the file's order.

    Args:
        file: Opened for bytes, seekable.
        problems: Takes what is wrong; such rows are left out.

    Attributes:
        rows: Examples so far.
    """

    def __init__(self, file: BinaryIO, problems: FileProblems) -> None:
        self.rows = 0
        self._problems = problems
        self._formats = FormatReader(problems)
        self._rows = RowReader(file, self._formats.check_columns, problems)

    @property
    def container(self) -> Container:
        return self._rows.container

    @property
    def format(self) -> DatasetFormat:
        """What a row is, once one was read."""
        return self._formats.format

    @property
    def sha256(self) -> str:
        """Of the file, once its last example was read."""
        return self._rows.sha256

    @property
    def size_bytes(self) -> int:
        return self._rows.size_bytes

    def __iter__(self) -> Iterator[Example]:
        """Yield the examples.

        Raises:
            InvalidRequestError: At the end, or at the tenth problem: what is wrong, by line. Without rows too.
        """
        for row in self._rows:
            example = self._formats.read(row)
            if example is None:
                continue
            self.rows += 1
            if self.rows > MAX_ROWS:
                raise self._problems.refusal(f"has more than {MAX_ROWS} rows. Send a part of it.")
            yield example
        self._problems.check()
        if not self.rows:
            raise self._problems.refusal("has no rows. Send at least one example a line.")


def read_examples(path: Path, sha256: str, *, param: Param = "training_file") -> Iterator[Example]:
    """Yield the examples of a file that was checked before.

    Args:
        path: The file.
        sha256: Of the file when it was checked, as lower hex.
        param: The request field that named it.

    Raises:
        ConflictError: At the end, when these were not the bytes that were checked.
        InvalidRequestError: It is no data file any more.
    """
    with open_dataset(path, param) as file:
        reader = DatasetReader(file, FileProblems(param))
        yield from reader
    if reader.sha256 != sha256:
        raise _changed(path, param)


@contextmanager
def open_dataset(path: Path, param: Param) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        NotFoundError: There is none.
        InvalidRequestError: It is too large.
    """
    try:
        found = path.stat()
        # A pipe would block the opening.
        file = path.open("rb") if stat.S_ISREG(found.st_mode) else None
    except (OSError, ValueError) as error:
        raise _missing(path, param) from error
    if file is None:
        raise _missing(path, param)
    with file:
        if found.st_size > MAX_FILE_BYTES:
            raise too_large(FileProblems(param))
        yield file


def _missing(path: Path, param: Param) -> NotFoundError:
    return NotFoundError(f"There is no readable file {path.name!r}. Upload it again.", param=param)


def _changed(path: Path, param: Param) -> ConflictError:
    return ConflictError(
        f"The file {path.name!r} has changed since it was checked. Start a new job with it.",
        param=param,
        code="training_file_changed",
    )
