"""Messages as engines take them: contents of text alone, or of texts and images in their order."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aihub.chat.markers import neutralise_markers
from aihub.chat.messages import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, UserMessage
from aihub.chat.parts import AnyPart, ReadyImage

EngineContent = str | list[dict[str, Any]]

UNPARSED_ARGUMENTS = "unparsed_arguments"
"""Name under which the model sees the arguments of an earlier call that were no JSON object."""


def engine_content(parts: Iterable[AnyPart], special_tokens: tuple[str, ...]) -> EngineContent:
    """Return the content of a message of parts that are read, chat-template markers neutralised."""
    return _joined(_engine_part(part, special_tokens) for part in parts)


@dataclass(frozen=True, slots=True)
class AskedContent:
    """The content of a message that asks, split where its question stands.

    Attributes:
        before: Engine parts: images, documents and what was said about them.
        question: What the user typed or spoke last.
        after: Engine parts.
    """

    before: Sequence[dict[str, Any]]
    question: str
    after: Sequence[dict[str, Any]]

    def asking(self, text: str) -> EngineContent:
        """Return the content with `text` in place of the question."""
        return _joined([*self.before, {"type": "text", "text": text}, *self.after])


def asked_content(message: UserMessage, special_tokens: Iterable[str] = ()) -> AskedContent:
    """Split a message whose media are read; what is not in parts is the question as a whole."""
    tokens = tuple(special_tokens)
    if not message.parts:
        return AskedContent((), neutralise_markers(message.content, tokens), ())
    span = message.question_span
    parts = [_engine_part(part, tokens) for part in message.parts]
    question = "\n".join(part["text"] for part in parts[span.start : span.stop])
    return AskedContent(parts[: span.start], question, parts[span.stop :])


def engine_message(message: Message, special_tokens: tuple[str, ...]) -> dict[str, Any]:
    """Return a message whose media are read as engines take it, chat-template markers neutralised."""
    # Some chat templates concatenate the content, so an absent one becomes an empty string.
    content: EngineContent = neutralise_markers(message.content or "", special_tokens)
    if isinstance(message, UserMessage) and any(isinstance(part, ReadyImage) for part in message.parts):
        content = engine_content(message.parts, special_tokens)
    role = "system" if isinstance(message, SystemMessage) else message.role
    result: dict[str, Any] = {"role": role, "content": content}
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
        return result
    if message.name is not None:
        result["name"] = message.name
    if isinstance(message, AssistantMessage) and message.tool_calls:
        result["tool_calls"] = [_engine_call(call, special_tokens) for call in message.tool_calls]
    return result


def _engine_call(call: ToolCall, special_tokens: tuple[str, ...]) -> dict[str, Any]:
    """Build a call whose arguments every engine can read as an object.

    Chat templates need one, and vLLM puts an empty one in place of what is none; so text that is none goes in as its only
    value. What is decoded here cannot hide a marker behind JSON's escapes.
    """
    values = call.function.arguments_object()
    if values is None:
        values = {UNPARSED_ARGUMENTS: call.function.arguments}
    arguments = neutralise_markers(json.dumps(values, ensure_ascii=False), special_tokens)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": neutralise_markers(call.id, special_tokens), "type": call.type, "function": function}


def _engine_part(part: AnyPart, special_tokens: tuple[str, ...]) -> dict[str, Any]:
    if isinstance(part, ReadyImage):
        return {"type": "image_url", "image_url": {"url": part.url, "detail": part.detail}}
    return {"type": "text", "text": neutralise_markers(getattr(part, "text", ""), special_tokens)}


def _joined(parts: Iterable[dict[str, Any]]) -> EngineContent:
    """Join neighbouring texts, and leave out empty ones; the result is text where there is no image."""
    content: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "text" and content and content[-1]["type"] == "text" and part["text"]:
            content[-1] = {"type": "text", "text": f"{content[-1]['text']}\n{part['text']}"}
        elif part["type"] != "text" or part["text"]:
            content.append(part)
    if any(part["type"] == "image_url" for part in content):
        return content
    return content[0]["text"] if content else ""
