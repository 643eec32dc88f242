from typing import Any

import pytest

from aihub.conversations.history import HistoryMessage, turns_of


def call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def message(role: str, content: str = "", **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def history(*messages: dict[str, Any], incomplete: tuple[int, ...] = ()) -> list[HistoryMessage]:
    return [
        HistoryMessage(position, item, is_answer=item["role"] == "assistant", is_complete=position not in incomplete)
        for position, item in enumerate(messages)
    ]


USER, ANSWER = message("user", "Hi"), message("assistant", "Hello")
CALL = message("assistant", tool_calls=[call("a"), call("b")])
RESULTS = [message("tool", "1", tool_call_id="a"), message("tool", "2", tool_call_id="b")]


def roles(messages: list[HistoryMessage], **options: bool) -> list[list[str]]:
    return [[item["role"] for item in turn.messages] for turn in turns_of(messages, **options)]


def test_turn_is_a_question_with_all_that_follows_it() -> None:
    stored = history(message("system", "x"), USER, CALL, *RESULTS, ANSWER, USER, ANSWER)
    assert roles(stored) == [["user", "assistant", "tool", "tool", "assistant"], ["user", "assistant"]]
    assert [turn.last_position for turn in turns_of(stored)] == [5, 7]


def test_question_that_was_never_answered_is_left_out_and_an_answer_that_was_cut_stays() -> None:
    assert roles(history(USER, ANSWER, USER, incomplete=(2,))) == [["user", "assistant"]]
    assert roles(history(USER, ANSWER, incomplete=(1,))) == [["user", "assistant"]]


def test_call_without_all_its_results_goes_and_what_was_said_beside_it_stays() -> None:
    speaking = {**CALL, "content": "Let me see."}
    [turn, _] = turns_of(history(USER, speaking, RESULTS[0], USER, ANSWER))
    assert list(turn.messages) == [USER, message("assistant", "Let me see.")]


def test_open_calls_stay_only_for_a_request_that_brings_their_results() -> None:
    stored = history(USER, CALL)
    assert roles(stored, awaits_results=True) == [["user", "assistant"]]
    assert roles(stored) == [["user"]]


def test_questions_next_to_each_other_become_one() -> None:
    [turn] = turns_of(history(USER, CALL, message("user", "Still there?"), ANSWER))
    assert list(turn.messages) == [message("user", "Hi\n\nStill there?"), ANSWER]


def test_greeting_before_the_first_question_is_a_turn_of_its_own() -> None:
    assert roles(history(ANSWER, USER, ANSWER)) == [["assistant"], ["user", "assistant"]]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "image_url", "image_url": {"size_bytes": 5}}, "[image]"),
        ({"type": "image_url", "image_url": {"file_id": "file-1"}}, "[image file-1]"),
        ({"type": "file", "file": {"file_id": "file-1", "filename": "thực đơn.pdf"}}, "[file thực đơn.pdf]"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "[recording]"),
        ({"type": "text", "text": "Chào"}, "Chào"),
    ],
)
def test_media_of_earlier_turns_are_named(part: dict[str, Any], text: str) -> None:
    [turn] = turns_of(history({"role": "user", "content": [part]}, ANSWER))
    assert turn.messages[0]["content"] == text
