"""Items of OpenAI's clients become chat messages, and messages become items, one by one."""

from typing import Any

import pytest

from aihub.chat.messages import check_message
from aihub.conversations.items import make_items, message_id_of, read_items, without_item
from aihub.conversations.tables.records import MessageRecord
from aihub.core.errors import InvalidRequestError

KEY = "0123456789abcdef01234567"
PNG = "data:image/png;base64,AAAA"


def record(message: dict[str, Any]) -> MessageRecord:
    return MessageRecord(f"msg_{KEY}", 0, message["role"], message, "completed", None, None, None, 1, 0)


def call(call_id: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "lookup", "arguments": '{"q": "á"}'}}


ITEMS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"role": "user", "content": "chào"}, {"role": "user", "content": "chào"}),
    (
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "chào"}]},
        {"role": "user", "content": [{"type": "text", "text": "chào"}]},
    ),
    (
        {
            "type": "message",
            "id": "msg_of_elsewhere",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "dạ", "annotations": [], "logprobs": []}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "dạ"}]},
    ),
    (
        {"role": "user", "content": [{"type": "input_image", "image_url": PNG, "detail": "low"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}]},
    ),
    (
        {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]},
    ),
    (
        {"type": "function_call", "call_id": "c1", "name": "lookup", "arguments": '{"q": "á"}'},
        {"role": "assistant", "content": None, "tool_calls": [call("c1")]},
    ),
    (
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ),
    (
        {"role": "assistant", "content": None, "tool_calls": [call("c1")], "refusal": None},
        {"role": "assistant", "content": None, "tool_calls": [call("c1")]},
    ),
    ({"role": "tool", "tool_call_id": "c1", "content": "42"}, {"role": "tool", "tool_call_id": "c1", "content": "42"}),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": PNG}}]},
    ),
]


@pytest.mark.parametrize(("item", "message"), ITEMS)
def test_item_becomes_a_message_that_a_chat_takes(item: dict[str, Any], message: dict[str, Any]) -> None:
    assert [new.message for new in read_items([item], check_message)] == [message]


@pytest.mark.parametrize("message", [message for _, message in ITEMS])
def test_items_of_a_message_become_the_same_message(message: dict[str, Any]) -> None:
    (again,) = read_items(make_items(record(message)), check_message)
    (items,) = (make_items(record(again.message)),)
    assert items == make_items(record(message))


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "reasoning", "summary": []}, "items.1.type", "must be one of"),
    ({"type": "item_reference", "id": "msg_1"}, "items.1.type", "must be one of"),
    ({"type": 5}, "items.1.type", "must be one of"),
    ({}, "items.1.role", "is required"),
    ({"role": "wizard", "content": "a"}, "items.1.role", "must be one of"),
    ({"role": "user", "content": None}, "items.1.content", "must be a string or a list"),
    ({"role": "user", "content": []}, "items.1.content", "at least 1"),
    ({"role": "user", "content": [{"type": "input_text"}]}, "items.1.content.0.text", "is required"),
    ({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]}, "items.1.content.0", "format"),
    ({"role": "user", "content": [{"type": "input_image"}]}, "items.1.content.0.image_url", "needs either"),
    (
        {"role": "user", "content": [{"type": "input_image", "image_url": "ftp://a"}]},
        "items.1.content.0.image_url.url",
        "data URL",
    ),
    ({"role": "system", "content": [{"type": "input_image", "image_url": PNG}]}, "items.1.content.0.type", "text"),
    ({"type": "function_call", "call_id": "", "name": "f", "arguments": "{}"}, "items.1.call_id", "at least 1"),
    (
        {"type": "function_call", "call_id": "c", "name": "not a name", "arguments": "{}"},
        "items.1.tool_calls.0.function.name",
        "",
    ),
    ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "items.1.tool_calls.0.function", "is required"),
    ({"role": "assistant", "tool_calls": 7}, "items.1.tool_calls", "must be a list"),
    ({"role": "tool", "content": "42"}, "items.1.tool_call_id", "is required"),
]


@pytest.mark.parametrize(("item", "param", "text"), WRONG)
def test_wrong_item_is_named(item: dict[str, Any], param: str, text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_items([{"role": "user", "content": "a"}, item], check_message)
    assert (caught.value.param or "").startswith(param)
    assert text in caught.value.message


@pytest.mark.parametrize("content", ["", None, []])
def test_tool_calls_without_a_text_have_no_empty_message_before_them(content: Any) -> None:
    message = {"role": "assistant", "content": content, "tool_calls": [call("c1"), call("c2")]}
    items = make_items(record(message))
    assert [item["type"] for item in items] == ["function_call", "function_call"]
    rest = without_item(record(message), items[0]["id"])
    assert rest is not None
    assert make_items(record(rest)) == items[1:]
    assert without_item(record(rest), items[1]["id"]) is None


def test_empty_answer_without_tool_calls_is_still_an_item() -> None:
    (item,) = make_items(record({"role": "assistant", "content": ""}))
    assert (item["type"], item["content"]) == ("message", [{"type": "output_text", "text": "", "annotations": []}])


def test_text_and_each_tool_call_are_items_of_their_own_and_go_one_by_one() -> None:
    message = {"role": "assistant", "content": "Tôi xem.", "tool_calls": [call("c1"), call("c2")]}
    items = make_items(record(message))
    assert [item["type"] for item in items] == ["message", "function_call", "function_call"]
    assert len({item["id"] for item in items}) == 3
    assert {message_id_of(item["id"]) for item in items} == {f"msg_{KEY}"}
    without_text = without_item(record(message), items[0]["id"])
    assert without_text == {"role": "assistant", "content": None, "tool_calls": [call("c1"), call("c2")]}
    one_call = without_item(record(without_text), items[1]["id"])
    assert one_call == {"role": "assistant", "content": None, "tool_calls": [call("c2")]}
    assert make_items(record(one_call))[0] == items[2]
    assert without_item(record(one_call), items[2]["id"]) is None
    with pytest.raises(KeyError):
        without_item(record(one_call), items[1]["id"])


@pytest.mark.parametrize(
    "item_id", ["", "msg_", "msg_x", f"call_{KEY}", f"msg_{KEY}\n", f"msg_{KEY}_", f"fc_{KEY}_zzzzzzzz", "\0"]
)
def test_other_ids_are_no_items(item_id: str) -> None:
    assert message_id_of(item_id) is None
