"""Values as lines of CSV that a spreadsheet shows and does not run."""

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def render_csv(rows: Iterable[Iterable[object]]) -> str:
    """Return one line for each row (RFC 4180); a text that begins like a formula gets a `'` before it, and None is empty.

    Times are those of UTC (RFC 3339, with `Z`).
    """
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
