"""CSV to text: each row as `header: value` lines, so that a chunk says what its numbers mean."""

import csv
import io
import re
from itertools import islice, pairwise

from aihub.documents.parsing.clean import BoundedText, DocumentError

_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 20
_SAMPLE_CHARACTERS = 8192
_MOST = 0.5
_SEPARATOR_LINE = re.compile(r'\ufeff?"?sep=([^\r\n"])"?[ \t,;]*(?:\r\n|\r|\n|\Z)', re.IGNORECASE)
_DECIMALS = re.compile(r"\d{1,3}(?!\d)")


def read_csv(text: str, max_characters: int) -> str:
    """Return the rows parted by blank lines; the first row names the columns, and empty cells are left out.

    Raises:
        DocumentError: `invalid_file` when quoting is broken, `too_large`.
    """
    csv.field_size_limit(max_characters)
    declared, text = _declared_delimiter(text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=declared or _delimiter(text))
    out = BoundedText(max_characters)
    try:
        header = next((row for row in rows if any(cell.strip() for cell in row)), [])
        names = [cell.strip() or f"column {number}" for number, cell in enumerate(header, 1)]
        has_rows = False
        for row in rows:
            line_start = "\n\n" if has_rows else ""
            for number, cell in enumerate(row):
                if cell.strip():
                    name = names[number] if number < len(names) else f"column {number + 1}"
                    out.add(f"{line_start}{name}: {cell.strip()}")
                    line_start = "\n"
                    has_rows = True
    except csv.Error as error:
        raise DocumentError(f"The CSV file is broken at line {rows.line_num}: {error}.") from error
    if not has_rows:
        out.add("\n".join(cell.strip() for cell in header))
    return out.text()


def _declared_delimiter(text: str) -> tuple[str | None, str]:
    """Return the delimiter of Excel's first line `sep=;`, and the text without that line."""
    declared = _SEPARATOR_LINE.match(text)
    return (declared[1], text[declared.end() :]) if declared is not None else (None, text)


def _delimiter(text: str) -> str:
    """The separator that parts most rows into as many columns as the first one; a comma when none does.

    Of several, those win that do not cut numbers such as `1,5` or phrases in two, then those with more columns, then those
    that more rows follow.
    """
    sample = text[:_SAMPLE_CHARACTERS].splitlines(keepends=True)
    if len(text) > _SAMPLE_CHARACTERS:
        sample = sample[:-1]

    def merit(delimiter: str) -> tuple[bool, bool, int, float]:
        rows = [row for row in islice(csv.reader(sample, delimiter=delimiter), _SAMPLE_ROWS) if row]
        columns = len(rows[0]) if rows else 0
        share = sum(len(row) == columns for row in rows) / max(1, len(rows))
        is_regular = columns > 1 and share > _MOST
        return is_regular, is_regular and not _is_punctuation(rows[1:], delimiter), columns, share

    return max(_DELIMITERS, key=merit)


def _is_punctuation(rows: list[list[str]], delimiter: str) -> bool:
    """Whether most commas between the cells look like decimal points or like those of a sentence."""
    borders = [(left, right) for row in rows for left, right in pairwise(row)] if delimiter == "," else []
    inside = sum(right.startswith(" ") or (left[-1:].isdigit() and _DECIMALS.match(right) is not None) for left, right in borders)
    return inside > _MOST * len(borders)
