"""CSV to text: each row as `header: value` lines, so that a chunk says what its numbers mean."""

import csv
import io
from itertools import islice

from aihub.documents.clean import BoundedText
from aihub.documents.errors import DocumentError

_DELIMITERS = ",;\t|"
_SAMPLE_ROWS = 20


def read_csv(text: str, max_characters: int) -> str:
    """Return the rows parted by blank lines; the first row names the columns, and empty cells are left out.

    Raises:
        DocumentError: `invalid_file` when quoting is broken, `too_large`.
    """
    csv.field_size_limit(max_characters)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
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


def _delimiter(text: str) -> str:
    """The separator that parts the rows into columns, best into as many as the first row has; a comma when none does."""
    sample = text[:8192].splitlines(keepends=True)
    if len(text) > 8192:
        sample = sample[:-1]

    def merit(delimiter: str) -> tuple[bool, int]:
        counts = [len(row) for row in islice(csv.reader(sample, delimiter=delimiter), _SAMPLE_ROWS) if row]
        columns = counts[0] if counts else 0
        return columns > 1 and counts.count(columns) * 2 > len(counts), columns

    return max(_DELIMITERS, key=merit)
