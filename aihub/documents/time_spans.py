"""When the words of a chunk were said, packed into few bytes: they are read only for what is cited.

A packed word is four little-endian int32: first character and one past the last, counted in the document's text, and first
and last millisecond of the recording.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from aihub.documents.service import TimeSpan

_FIELDS = 4
_MS_PER_S = 1000.0


class SpanTable:
    """The words of one transcript, to be packed for each of its chunks.

    Args:
        spans: In the order of the text; they do not overlap.
    """

    def __init__(self, spans: Sequence[TimeSpan]) -> None:
        rows = [
            (span.start_char, span.end_char, round(span.start_s * _MS_PER_S), round(span.end_s * _MS_PER_S)) for span in spans
        ]
        self._rows = np.asarray(rows, dtype="<i4").reshape(-1, _FIELDS)

    def pack(self, start_char: int, end_char: int) -> bytes | None:
        """Return the words that lie, wholly or in part, between two characters of the text; None without any."""
        return _between(self._rows, start_char, end_char).tobytes() or None


def time_range(packed: bytes | None, start_char: int, end_char: int) -> tuple[float, float] | None:
    """Return when the first of the words between two characters of the text begins and the last ends, in seconds.

    None where nothing was said there, or the document is no recording.
    """
    words = _between(_unpack(packed or b""), start_char, end_char)
    return (float(words[0, 2]) / _MS_PER_S, float(words[-1, 3]) / _MS_PER_S) if len(words) else None


def time_fields(packed: bytes | None, start_char: int, end_char: int) -> dict[str, float]:
    """Return `time_range` as the fields `start_s` and `end_s`; none where it is None."""
    times = time_range(packed, start_char, end_char)
    return {} if times is None else {"start_s": times[0], "end_s": times[1]}


def merge_spans(packed: Iterable[bytes | None]) -> tuple[TimeSpan, ...]:
    """Return the words of chunks that may overlap, each once, in the order of the text."""
    rows = np.unique(np.concatenate([_unpack(chunk or b"") for chunk in packed]), axis=0)
    return tuple(TimeSpan(int(row[0]), int(row[1]), int(row[2]) / _MS_PER_S, int(row[3]) / _MS_PER_S) for row in rows)


def _unpack(packed: bytes) -> NDArray[np.int32]:
    return np.frombuffer(packed, dtype="<i4").reshape(-1, _FIELDS)


def _between(rows: NDArray[np.int32], start_char: int, end_char: int) -> NDArray[np.int32]:
    """Return the rows of the words that share a character with the range."""
    first = int(np.searchsorted(rows[:, 1], start_char, side="right"))
    last = int(np.searchsorted(rows[:, 0], end_char, side="left"))
    return rows[first:last]
