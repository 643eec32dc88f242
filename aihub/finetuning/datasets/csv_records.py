"""Records of a CSV file whose first line names the columns, with the line at which each begins."""

import csv
from collections.abc import Callable, Iterator, Sequence

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.datasets.problems import FileProblems

CheckColumns = Callable[[Sequence[str]], None]
"""Raises an `InvalidRequestError` that says what is wrong with the columns."""

NOT_UTF8 = "It is not UTF-8. Save the file as UTF-8."
_DELIMITERS = ",;\t"


def read_records(
    lines: Iterator[tuple[int, bytes]], max_record_bytes: int, check_columns: CheckColumns, problems: FileProblems
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line, from 1, and the cells of each record by lower-case column.

    Commas, semicolons or tabs part the cells, whichever parts the first line into the most. Records with too few or too
    many cells are noted and left out.

    Raises:
        InvalidRequestError: Other columns, broken quotes or text, after which the rest means nothing; or the tenth problem.
    """
    # The limit is one for the whole process; the records are bounded here, in bytes.
    csv.field_size_limit(max(csv.field_size_limit(), max_record_bytes))
    text = _Text(lines, max_record_bytes, problems)
    columns, delimiter = _read_header(text, check_columns, problems)
    records = csv.reader(text, delimiter=delimiter, strict=True)
    while True:
        text.begin_record()
        try:
            cells = next(records, None)
        except csv.Error as error:
            problems.stop(
                text.first_line,
                f'It is not valid CSV: {_shown(error)}. Put text with commas or line ends in "..." and double its quotes.',
            )
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) == len(columns):
            yield text.first_line, dict(zip(columns, cells, strict=True))
        else:
            problems.add(
                text.first_line,
                f'It has {len(cells)} cells for {len(columns)} columns. Put text with a "{delimiter}" or line ends in quotes.',
            )


def _read_header(text: "_Text", check_columns: CheckColumns, problems: FileProblems) -> tuple[list[str], str]:
    line = ""
    for line in text:
        if line.strip():
            break
        text.begin_record()
    found: list[tuple[list[str], str]] = []
    for delimiter in _DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            problems.stop(text.first_line, f"It does not name columns: {_shown(error)}.")
        found.append(([cell.strip().lower() for cell in cells], delimiter))
    columns, delimiter = max(found, key=lambda choice: len(choice[0]))
    if len(set(columns)) < len(columns):
        problems.stop(text.first_line, "It names a column twice. Each column has a name of its own.")
    try:
        check_columns(columns)
    except InvalidRequestError as error:
        problems.stop(text.first_line, error.message)
    return columns, delimiter


def _shown(error: csv.Error) -> str:
    # What follows is advice to programmers.
    return str(error).partition(" - ")[0]


class _Text:
    """Lines of text as `csv.reader` takes them; knows where the record under way began.

    Attributes:
        first_line: Of that record.
    """

    def __init__(self, lines: Iterator[tuple[int, bytes]], max_record_bytes: int, problems: FileProblems) -> None:
        self.first_line = 1
        self._lines = lines
        self._most = max_record_bytes
        self._problems = problems
        self._record_bytes = 0

    def begin_record(self) -> None:
        self._record_bytes = 0

    def __iter__(self) -> "_Text":
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        if not self._record_bytes:
            self.first_line = number
        self._record_bytes += len(line)
        if self._record_bytes > self._most:
            self._problems.stop(
                self.first_line, f"The record that begins here is longer than {self._most} bytes. Is a closing quote missing?"
            )
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self._problems.stop(number, NOT_UTF8)
        if "\0" in text:
            self._problems.stop(number, "It holds a NUL character. Remove it.")
        return text
