"""Vosk's result objects: joined for one frame, moved in time."""

from typing import Any

import pytest

from aihub.speech.vosk_results import has_words, join_finals, move_later


def word(text: str) -> dict[str, Any]:
    return {"word": text, "start": 0.0, "end": 1.0, "conf": 1.0}


def test_finals_of_one_frame_are_joined_with_their_words() -> None:
    finals = [{"text": "xin", "result": [word("xin")]}, {"text": ""}, {"text": "chào", "result": [word("chào")]}]
    assert join_finals(finals) == {"text": "xin chào", "result": [word("xin"), word("chào")]}


def test_alternatives_of_one_frame_are_joined_rank_by_rank() -> None:
    first = {"alternatives": [{"confidence": 9.0, "text": "a"}, {"confidence": 5.0, "text": "b"}]}
    second = {"alternatives": [{"confidence": 7.0, "text": "c", "result": [word("c")]}]}
    assert join_finals([first, second]) == {
        "alternatives": [
            {"confidence": 7.0, "text": "a c", "result": [word("c")]},
            {"confidence": 5.0, "text": "b c", "result": [word("c")]},
        ]
    }


def test_words_of_every_alternative_and_partial_move() -> None:
    later = [word("a") | {"start": 2.0, "end": 3.0}]
    assert move_later({"text": "a", "result": [word("a")]}, 2.0) == {"text": "a", "result": later}
    assert move_later({"partial": "a", "partial_result": [word("a")]}, 2.0) == {"partial": "a", "partial_result": later}
    alternatives = {"alternatives": [{"confidence": 1.0, "text": "a", "result": [word("a")]}]}
    assert move_later(alternatives, 2.0)["alternatives"][0]["result"] == later
    assert alternatives["alternatives"][0]["result"] == [word("a")]


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        ({"text": "a"}, True),
        ({"text": ""}, False),
        ({"alternatives": [{"text": ""}, {"text": "a"}]}, True),
        ({"alternatives": [{"text": ""}]}, False),
    ],
)
def test_words_are_found_in_one_result_and_in_alternatives(final: dict[str, Any], expected: bool) -> None:
    assert has_words(final) is expected
