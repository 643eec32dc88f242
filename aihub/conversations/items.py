"""OpenAI's conversation items and the hub's stored chat messages, each made of the other.

A stored message is one item, or several: its text, and each of its tool calls. Their ids are made of the message's, so that each
can be read and deleted alone.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, StringConstraints

from aihub.conversations.messages import message_text
from aihub.conversations.tables.records import MessageRecord, NewMessage
from aihub.core.schemas import LenientModel, validate

Item: TypeAlias = dict[str, Any]
ItemStatus = Literal["completed", "incomplete", "in_progress"]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=128)]

_ITEM_ID = re.compile(r"(?:msg|fc|fco)_([0-9a-f]{24})(?:_[0-9a-f]{8})?")
_CHAT_PARTS = ("image_url", "video_url", "input_audio", "file")
_CHAT_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id")


class _Text(LenientModel):
    type: Literal["input_text", "output_text", "text"]
    text: str

    def chat_part(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text}


class _Refusal(LenientModel):
    type: Literal["refusal"]
    refusal: str

    def chat_part(self) -> dict[str, Any]:
        return {"type": "refusal", "refusal": self.refusal}


class _Image(LenientModel):
    type: Literal["input_image"]
    image_url: str | None = None
    file_id: str | None = None
    detail: Literal["auto", "low", "high"] = "auto"

    def chat_part(self) -> dict[str, Any]:
        source = {"url": self.image_url, "file_id": self.file_id}
        return {"type": "image_url", "image_url": _present(source) | {"detail": self.detail}}


class _File(LenientModel):
    type: Literal["input_file"]
    file_id: str | None = None
    file_data: str | None = None
    filename: str | None = None

    def chat_part(self) -> dict[str, Any]:
        source = {"file_id": self.file_id, "file_data": self.file_data, "filename": self.filename}
        return {"type": "file", "file": _present(source)}


_Part = Annotated[_Text | _Refusal | _Image | _File, Field(discriminator="type")]
_Content = str | Annotated[list[_Part], Field(min_length=1)]


class _Message(LenientModel):
    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: _Content
    status: ItemStatus = "completed"

    def chat_message(self) -> dict[str, Any]:
        return {"role": self.role, "content": _chat_content(self.content)}


class _FunctionCall(LenientModel):
    type: Literal["function_call"]
    call_id: CallId
    name: str
    arguments: str
    status: ItemStatus = "completed"

    def chat_message(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": self.call_id, "type": "function", "function": function}],
        }


class _FunctionCallOutput(LenientModel):
    type: Literal["function_call_output"]
    call_id: CallId
    output: _Content
    status: ItemStatus = "completed"

    def chat_message(self) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": self.call_id, "content": _chat_content(self.output)}


class _ChatMessage(LenientModel):
    """A message as `/v1/chat/completions` takes it."""

    type: Literal["chat.message"]
    message: dict[str, Any]
    status: ItemStatus = "completed"

    def chat_message(self) -> dict[str, Any]:
        return {name: self.message.get(name) for name in _CHAT_FIELDS if self.message.get(name) is not None or name == "content"}


class _Items(LenientModel):
    items: list[Annotated[_Message | _FunctionCall | _FunctionCallOutput | _ChatMessage, Field(discriminator="type")]]


MessageCheck = Callable[[dict[str, Any], str], None]
"""Refuses a chat message that no chat would take; its second argument names the field."""


def read_items(items: list[Item], check: MessageCheck) -> list[NewMessage]:
    """Return the messages of items that a client sent.

    An item without `type` is a message: as OpenAI's, or a chat message like those of an export.

    Raises:
        InvalidRequestError: An item is of a kind that is not kept, or wrong in itself.
    """
    messages = []
    for index, item in enumerate(validate(_Items, {"items": list(map(_typed, items))}).items):
        message = item.chat_message()
        check(message, f"items.{index}")
        messages.append(NewMessage(message, "completed" if item.status == "completed" else "incomplete"))
    return messages


def make_items(record: MessageRecord) -> list[Item]:
    """Return a stored message as items, at least one."""
    key, message = record.id.removeprefix("msg_"), record.message
    if record.role == "tool":
        output = {"call_id": message.get("tool_call_id"), "output": message_text(message)}
        return [{"id": f"fco_{key}", "type": "function_call_output", **output, "status": record.status}]
    calls = message.get("tool_calls") or []
    items: list[Item] = []
    # Chats answer with an empty text beside calls; as an item it would say nothing.
    if message.get("content") or not calls:
        content = [_item_part(part, record.role) for part in _parts(message.get("content"))]
        items.append({"id": record.id, "type": "message", "role": record.role, "status": record.status, "content": content})
    for call in calls:
        called = {"call_id": call["id"], "name": call["function"]["name"], "arguments": call["function"].get("arguments", "")}
        items.append({"id": _call_item_id(key, call["id"]), "type": "function_call", **called, "status": record.status})
    return items


def message_id_of(item_id: str) -> str | None:
    """Return the id of the message that an item belongs to; None where it is no item's id."""
    found = _ITEM_ID.fullmatch(item_id)
    return None if found is None else f"msg_{found[1]}"


def without_item(record: MessageRecord, item_id: str) -> dict[str, Any] | None:
    """Return a message without one of its items; None where nothing is left.

    Raises:
        KeyError: It has no such item.
    """
    items = make_items(record)
    if item_id not in {item["id"] for item in items}:
        raise KeyError(item_id)
    if len(items) == 1:
        return None
    message = dict(record.message)
    if item_id == record.id:
        message["content"] = None
        return message
    key = record.id.removeprefix("msg_")
    calls = [call for call in message["tool_calls"] if _call_item_id(key, call["id"]) != item_id]
    message.pop("tool_calls")
    return message | ({"tool_calls": calls} if calls else {})


def _typed(item: Item) -> Item:
    """Give an item without `type` the one that it means."""
    if "type" in item:
        return item
    content = item.get("content")
    kinds = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    is_chat = item.get("role") == "tool" or item.get("tool_calls") or any(kind in _CHAT_PARTS for kind in kinds)
    return {"type": "chat.message", "message": item} if is_chat else {**item, "type": "message"}


def _chat_content(content: str | list[Any]) -> str | list[dict[str, Any]]:
    return content if isinstance(content, str) else [part.chat_part() for part in content]


def _parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if isinstance(content, str) else []


def _item_part(part: dict[str, Any], role: str) -> dict[str, Any]:
    match part.get("type"):
        case "text" if role == "assistant":
            return {"type": "output_text", "text": part["text"], "annotations": []}
        case "text":
            return {"type": "input_text", "text": part["text"]}
        case "image_url":
            image = part["image_url"]
            source = {"image_url": image.get("url"), "file_id": image.get("file_id")}
            return {"type": "input_image", "detail": image.get("detail", "auto"), **_present(source)}
        case "file":
            return {"type": "input_file", **part["file"]}
        case _:
            return part


def _call_item_id(key: str, call_id: str) -> str:
    return f"fc_{key}_{hashlib.sha256(call_id.encode()).hexdigest()[:8]}"


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
