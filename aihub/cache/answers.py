"""Which answers may be given again: whole ones, by the model that was asked."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from aihub.core.sse import DONE, events, payload

MAX_PIECE_CHARS = 64 * 2**10

_CUT = frozenset({"abort", "error"})
"""Finish reasons of answers that something broke off; `length` is a whole answer to a request with that limit."""


def kept_pieces(pieces: Iterable[str], *, is_stream: bool) -> tuple[str, ...] | None:
    """Return what is kept of an answer: all but comments of a stream, which tell of waits. None where nothing is.

    Frames are joined, as a client that gets them all at once has no use for hundreds of writes.

    Args:
        pieces: Frames of a stream, or one piece of JSON.
    """
    if not is_stream:
        whole = tuple(pieces)
        return whole if len(whole) == 1 and _is_whole_answer(json.loads(whole[0])) else None
    frames = tuple(frame for frame in pieces if not frame.startswith(":"))
    return tuple(_joined(frames)) if _is_whole_stream(frames) else None


def _joined(frames: Iterable[str]) -> Iterator[str]:
    """Yield the same text in few pieces; frames with usage, which the edge reads, stay apart from text."""
    piece = ""
    for frame in frames:
        is_apart = '"usage"' in frame
        if piece and (is_apart or len(piece) + len(frame) > MAX_PIECE_CHARS):
            yield piece
            piece = ""
        if is_apart:
            yield frame
        else:
            piece += frame
    if piece:
        yield piece


def _is_whole_answer(answer: Mapping[str, Any]) -> bool:
    reasons = [choice.get("finish_reason") for choice in answer.get("choices") or ()]
    return bool(reasons) and all(map(_is_good_end, reasons)) and not _is_stand_in(answer)


def _is_whole_stream(frames: Sequence[str]) -> bool:
    reasons: dict[int, str | None] = {}
    last = ""
    for frame in frames:
        for last in events(frame):
            chunk = payload(last)
            if chunk is None:
                continue
            if "error" in chunk or _is_stand_in(chunk):
                return False
            for choice in chunk.get("choices") or ():
                index = choice["index"]
                reasons[index] = choice.get("finish_reason") or reasons.get(index)
    return last == DONE and bool(reasons) and all(map(_is_good_end, reasons.values()))


def _is_good_end(reason: str | None) -> bool:
    return reason is not None and reason not in _CUT


def _is_stand_in(answer: Mapping[str, Any]) -> bool:
    """Whether another model answered, as the one that was asked for failed: the next request shall try that one again."""
    origin = answer.get("aihub")
    return isinstance(origin, Mapping) and bool(origin.get("fallback_from"))
