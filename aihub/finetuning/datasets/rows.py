"""Rows of a data file: JSON lines, one JSON list, or CSV, told apart by their first character.

Lines are read one at a time and hashed on the way, so that the hash is that of the bytes which were checked.
"""

import codecs
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.datasets.csv_records import NOT_UTF8, CheckColumns, read_records
from aihub.finetuning.datasets.json_list import split_list
from aihub.finetuning.datasets.problems import FileProblems
from aihub.http.strict_json import parse_strict_json

Container = Literal["jsonl", "json", "csv"]

MAX_FILE_BYTES = 512 * 2**20
MAX_LIST_BYTES = 64 * 2**20
"""Of a JSON list, which is held in memory as a whole."""

MAX_ROW_BYTES = 4 * 2**20
"""Of a line, an element of a JSON list, a record of CSV; about a million tokens."""

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """An object of JSON or a record of CSV.

    Attributes:
        line: Where it begins, from 1.
        values: By key or column.
    """

    line: int
    values: dict[str, Any]


class RowReader:
    """Reads the rows of one file once.

    Args:
        file: Opened for bytes, seekable.
        check_columns: Says whether the columns of a CSV file are those of a format.
        problems: Takes what is wrong; such rows are left out.

    Attributes:
        container: What the file is.
        size_bytes: Read so far.
    """

    def __init__(self, file: BinaryIO, check_columns: CheckColumns, problems: FileProblems) -> None:
        self.container = _find_container(file)
        self.size_bytes = 0
        self._file = file
        self._check_columns = check_columns
        self._problems = problems
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all bytes read so far, as lower hex: of the file, once its last row was read."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows without a fault.

        Raises:
            InvalidRequestError: Too large, ten problems, or one after which the rest means nothing.
        """
        if self.container == "csv":
            for number, cells in read_records(self._lines(), MAX_ROW_BYTES, self._check_columns, self._problems):
                yield Row(number, cells)
            return
        for number, body in self._lines() if self.container == "jsonl" else self._elements():
            row = self._parse(number, body.rstrip()) if body.strip() else None
            if row is not None:
                yield row

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        while line := self._file.readline(MAX_ROW_BYTES + 1):
            number += 1
            self._count(line)
            if len(line) > MAX_ROW_BYTES:
                self._refuse_long(number)
            yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line

    def _elements(self) -> Iterator[tuple[int, bytes]]:
        data = self._file.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            raise self._problems.refusal(
                f"is a JSON list larger than {MAX_LIST_BYTES // 2**20} MiB. Write it as JSON lines, one object a line."
            )
        self._count(data)
        data = data.removeprefix(codecs.BOM_UTF8)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            self._problems.stop(data.count(b"\n", 0, error.start) + 1, NOT_UTF8)
        for number, element in split_list(text, self._problems):
            if len(element) > MAX_ROW_BYTES:
                self._refuse_long(number)
            yield number, element.encode()

    def _count(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.size_bytes += len(piece)
        if self.size_bytes > MAX_FILE_BYTES:
            raise too_large(self._problems)

    def _refuse_long(self, number: int) -> None:
        self._problems.stop(number, f"The row is longer than {MAX_ROW_BYTES // 2**20} MiB. Split it into several rows.")

    def _parse(self, number: int, body: bytes) -> Row | None:
        try:
            values = parse_strict_json(body)
        except InvalidRequestError as error:
            self._problems.add(number, _reason(error))
            return None
        if isinstance(values, dict):
            return Row(number, values)
        self._problems.add(number, 'It is not an object. Write each row like {"prompt": "...", "completion": "..."}.')
        return None


def too_large(problems: FileProblems) -> InvalidRequestError:
    """Return the error for a file over `MAX_FILE_BYTES`."""
    return problems.refusal(f"is larger than {MAX_FILE_BYTES // 2**20} MiB. Send a part of it.")


def _find_container(file: BinaryIO) -> Container:
    first = file.read(_PIECE_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    file.seek(0)
    if first == b"[":
        return "json"
    return "jsonl" if first in {b"{", b""} else "csv"


def _reason(error: InvalidRequestError) -> str:
    """What the parser of request bodies says, in the words of a line."""
    cause = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        return NOT_UTF8
    if isinstance(cause, json.JSONDecodeError):
        return f"It is not valid JSON: {cause.msg} (column {cause.colno}). Each line holds one whole object."
    return error.message.replace("The body", "It", 1)
