"""Vosk's result objects: several as one, and later in time."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

Result = dict[str, Any]


def join_finals(finals: Sequence[Result]) -> Result:
    """Return one object for all that ended with one piece of audio, as clients await one answer for each."""
    if len(finals) == 1:
        return finals[0]
    if any("alternatives" in final for final in finals):
        ranks = zip_longest(*(final["alternatives"] for final in finals))
        best = [final["alternatives"][0] for final in finals]
        return {
            "alternatives": [
                {"confidence": min(item.get("confidence", 0.0) for item in items)} | _joined(items)
                for items in ([found or first for found, first in zip(rank, best, strict=True)] for rank in ranks)
            ]
        }
    return _joined(finals)


def move_later(result: Result, by_s: float) -> Result:
    """Return a final or a partial with its words `by_s` seconds later."""
    moved = dict(result)
    for key in ("result", "partial_result"):
        if key in moved:
            moved[key] = [word | {"start": word["start"] + by_s, "end": word["end"] + by_s} for word in moved[key]]
    if "alternatives" in moved:
        moved["alternatives"] = [move_later(alternative, by_s) for alternative in moved["alternatives"]]
    return moved


def has_words(final: Result) -> bool:
    """Return whether anything was heard in a final."""
    return any(item.get("text") for item in final.get("alternatives", (final,)))


def _joined(results: Iterable[Result]) -> Result:
    texts = [result for result in results if result.get("text")]
    words = [word for result in texts for word in result.get("result", ())]
    return ({"result": words} if words else {}) | {"text": " ".join(result["text"] for result in texts)}
