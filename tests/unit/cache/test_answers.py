import json
from typing import Any

import pytest

from aihub.cache.answers import MAX_PIECE_CHARS, kept_pieces
from aihub.cache.entry import decode_entry, encode_entry
from aihub.cache.service import read_cache_control


def answer(*reasons: str | None, **more: Any) -> str:
    choices = [{"index": index, "message": {}, "finish_reason": reason} for index, reason in enumerate(reasons)]
    return json.dumps({"choices": choices} | more)


def frame(reason: str | None = None, index: int = 0, **more: Any) -> str:
    choice = {"index": index, "delta": {}, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice]} | more)}\n\n"


DONE = "data: [DONE]\n\n"
STOOD_IN = {"aihub": {"provider": "openai", "fallback_from": [{"provider": "local", "code": "model_unavailable"}]}}


@pytest.mark.parametrize(
    ("piece", "is_kept"),
    [
        (answer("stop"), True),
        (answer("length", "tool_calls"), True),
        (answer("stop", aihub={"provider": "local", "fallback_from": []}), True),
        (answer("stop", None), False),
        (answer("abort"), False),
        (answer(), False),
        (answer("stop", **STOOD_IN), False),
    ],
)
def test_whole_answers_of_the_model_that_was_asked_are_kept(piece: str, is_kept: bool) -> None:
    assert kept_pieces([piece], is_stream=False) == ((piece,) if is_kept else None)


@pytest.mark.parametrize(
    ("frames", "is_kept"),
    [
        ([frame(), frame("stop"), DONE], True),
        ([frame() + frame("stop") + DONE], True),
        ([frame("stop", 0), frame("stop", 1), frame() + DONE], True),
        ([frame(), frame("stop")], False),
        ([frame(), DONE], False),
        ([frame("stop", 0), frame(None, 1), DONE], False),
        ([frame(), 'data: {"error":{"message":"x"}}\n\n' + DONE], False),
        ([frame("stop", **STOOD_IN), DONE], False),
        ([DONE], False),
        ([], False),
    ],
)
def test_whole_streams_of_the_model_that_was_asked_are_kept(frames: list[str], is_kept: bool) -> None:
    pieces = kept_pieces(frames, is_stream=True)
    assert (None if pieces is None else "".join(pieces)) == ("".join(frames) if is_kept else None)


def test_frames_are_kept_in_few_pieces_and_usage_apart() -> None:
    usage = 'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'
    frames = [frame()] * 2000 + [frame("stop"), usage, DONE]
    pieces = kept_pieces(frames, is_stream=True)
    assert pieces is not None
    assert pieces[-2:] == (usage, DONE)
    assert 3 < len(pieces) < 10
    assert all(len(piece) <= MAX_PIECE_CHARS for piece in pieces)
    assert "".join(pieces) == "".join(frames)


def test_comments_of_a_wait_are_not_kept() -> None:
    frames = [": loading qwen, 3 s\n\n", frame("stop"), DONE]
    assert kept_pieces(frames, is_stream=True) == (frame("stop") + DONE,)


@pytest.mark.parametrize("pieces", [("Phở 🍜", "\ud800", "\x00"), ("",)])
def test_an_entry_holds_any_text_for_its_own_key_only(pieces: tuple[str, ...]) -> None:
    data = encode_entry("a" * 64, pieces)
    assert decode_entry("a" * 64, data) == pieces
    assert decode_entry("b" * 64, data) is None
    for position in range(len(data)):
        assert decode_entry("a" * 64, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]) is None


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        (None, None),
        ("", None),
        ("max-age=0", None),
        ("no-cache", "no-cache"),
        (" No-Cache , max-age=0", "no-cache"),
        ("no-cache,no-store", "no-store"),
        ("no-cachex", None),
    ],
)
def test_cache_control_is_read_by_its_directives(header: str | None, asked: str | None) -> None:
    assert read_cache_control(header) == asked
