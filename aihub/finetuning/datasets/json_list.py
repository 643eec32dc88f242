"""Where the elements of a JSON list begin and end, so that each is checked by itself and named by its line."""

import json
import re
from collections.abc import Iterator

from aihub.finetuning.datasets.problems import FileProblems

_SPACE = re.compile(r"[ \t\r\n]*")


def split_list(text: str, problems: FileProblems) -> Iterator[tuple[int, str]]:
    """Yield the line, from 1, and the text of each element of a JSON list.

    The standard decoder finds where an element ends; its lenient value is not used.

    Raises:
        InvalidRequestError: The text is not one JSON list.
    """
    decoder = json.JSONDecoder()
    lines = _LineCounter(text)
    place = _skip_space(text, _skip_space(text, 0) + 1)
    is_at_end = text.startswith("]", place)
    while not is_at_end:
        line = lines.at(place)
        try:
            _, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            problems.stop(error.lineno, f"It is not valid JSON: {error.msg} (column {error.colno}).")
        except (ValueError, RecursionError):
            problems.stop(line, "It is not valid JSON: a number is too long or the nesting too deep.")
        yield line, text[place:end]
        place = _skip_space(text, end)
        is_at_end = text.startswith("]", place)
        if not is_at_end:
            if not text.startswith(",", place):
                problems.stop(lines.at(place), "The list is broken here: a comma parts its elements and ] ends it.")
            place = _skip_space(text, place + 1)
    place = _skip_space(text, place + 1)
    if place < len(text):
        problems.stop(lines.at(place), "The list has ended before this. Write one list, or one object a line.")


class _LineCounter:
    """Lines of rising places in a text; each character is looked at once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line, self._place = 1, 0

    def at(self, place: int) -> int:
        self._line += self._text.count("\n", self._place, place)
        self._place = place
        return self._line


def _skip_space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return found.end() if found is not None else place
