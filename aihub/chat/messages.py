"""The conversation of a chat request: one class per role, and the order tool calls must come in.

Contents are text. Lists of text parts are joined with newlines at the border, as vLLM does for its chat templates, so
the rest of the hub sees plain strings. Only a user's message may hold more than text; it keeps its parts in order too.
"""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from aihub.chat.parts import MEDIA_TYPES, AnyPart, MediaPart, ReadyImage, ReadyText, RefusalPart, TextPart, UserPart
from aihub.chat.tools import FunctionName
from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_JSON_DEPTH
from aihub.core.schemas import LenientModel, validate

_TEXT_FIELDS = {"text": "text", "refusal": "refusal"}


def _join_parts(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if value is None:
        raise PydanticCustomError("content_null", "must be a string or a list of text parts, not null")
    if not isinstance(value, list):
        raise PydanticCustomError("content_type", "must be a string or a list of text parts")
    if not value:
        raise PydanticCustomError("content_empty", "must hold at least one text part")
    return "\n".join(_part_text(part, index) for index, part in enumerate(value))


def _part_text(part: Any, index: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise PydanticCustomError(
            "content_part", 'must be an object like {{"type": "text", "text": "..."}}', {"below": str(index)}
        )
    field = _TEXT_FIELDS.get(kind)
    if field is None:
        reason = "must be 'text' here, not '{kind}'"
        if kind in MEDIA_TYPES:
            reason += "; images, recordings, videos and files belong into messages of role 'user'"
        raise PydanticCustomError("content_part_unsupported", reason, {"kind": kind[:32], "below": f"{index}.type"})
    text = part.get(field)
    if not isinstance(text, str):
        raise PydanticCustomError("content_part", "must be a string", {"below": f"{index}.{field}"})
    return text


Content = Annotated[
    str,
    BeforeValidator(_join_parts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                        "required": ["type", "text"],
                    },
                },
            ]
        }
    ),
]
"""Text as a string or as a list of text parts; always a string after validation."""

Name = Annotated[str, StringConstraints(pattern=r"^[^\s<|\\/>]{1,64}$")]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=128)]


def _arguments_text(value: Any) -> str:
    """Bring arguments to text: OpenAI sends text, other clients the value itself, and null where there are none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


ArgumentsText = Annotated[str, BeforeValidator(_arguments_text), WithJsonSchema({"type": "string"})]


class CalledFunction(LenientModel):
    """`arguments` is what a model wrote, so it may be no JSON: a call that `max_tokens` cut stays in the conversation."""

    name: FunctionName
    arguments: ArgumentsText = ""

    def arguments_object(self) -> dict[str, Any] | None:
        """Return the arguments as chat templates read them; None when they are no JSON object that can be rendered."""
        if not self.arguments.strip():
            return {}
        try:
            value = json.loads(self.arguments)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            # No JSON, numbers too long for Python, lone surrogates, or nested deeper than any parser goes.
            return None
        return value if isinstance(value, dict) and not _is_deeper(value, MAX_JSON_DEPTH) else None


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(item, levels - 1) for item in items)


class ToolCall(LenientModel):
    id: CallId
    type: Literal["function"] = "function"
    function: CalledFunction


class SystemMessage(LenientModel):
    """`developer` is OpenAI's newer name of `system`; engines get `system`."""

    role: Literal["system", "developer"]
    content: Content
    name: Name | None = None


class UserMessage(LenientModel):
    """A question: text, or text parts with images, recordings, videos and files among them."""

    role: Literal["user"]
    sent: Annotated[str | Annotated[list[UserPart], Field(min_length=1, fail_fast=True)], Field(alias="content")]
    name: Name | None = None

    @property
    def content(self) -> str:
        """The text of all parts, joined with newlines."""
        return self.sent if isinstance(self.sent, str) else "\n".join(_texts(self.sent))

    @property
    def parts(self) -> tuple[AnyPart, ...]:
        """The parts in order where the message holds, or held, more than text; else none."""
        if isinstance(self.sent, str) or all(isinstance(part, TextPart | RefusalPart) for part in self.sent):
            return ()
        return tuple(self.sent)

    @property
    def media(self) -> dict[int, MediaPart]:
        """Parts that are still to be read, by their position."""
        return {position: part for position, part in enumerate(self.parts) if isinstance(part, MediaPart)}

    @property
    def question(self) -> str:
        """What the user says, typed or spoken, without the text of files."""
        if not self.parts:
            return self.content
        return "\n".join(said for part in self.parts if (said := _said(part)))

    @property
    def question_span(self) -> range:
        """Positions of the parts that the user typed or spoke last, next to each other; empty behind the others without any."""
        parts = self.parts
        stop = next((position for position in range(len(parts), 0, -1) if _said(parts[position - 1]).strip()), None)
        if stop is None:
            return range(len(parts), len(parts))
        return range(next((start for start in range(stop, 0, -1) if not _said(parts[start - 1]).strip()), 0), stop)

    def with_parts(self, parts: Sequence[AnyPart]) -> Self:
        """Return the message with other parts, such as those read from its media."""
        return self.model_copy(update={"sent": list(parts)})


def _said(part: AnyPart) -> str:
    return part.question if isinstance(part, ReadyText) else getattr(part, "text", "")


def _texts(parts: Sequence[AnyPart]) -> list[str]:
    return [part.text for part in parts if not isinstance(part, MediaPart | ReadyImage)]


class AssistantMessage(LenientModel):
    """An earlier answer: text, tool calls, or both."""

    role: Literal["assistant"]
    content: Content | None = None
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError(
                "content_null", "an assistant message needs 'content' or 'tool_calls'", {"below": "content"}
            )
        return self


class ToolMessage(LenientModel):
    """The result of one tool call."""

    role: Literal["tool"]
    content: Content
    tool_call_id: CallId


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class _OneMessage(LenientModel):
    message: Message


def check_message(message: dict[str, Any], param: str) -> None:
    """Refuse what no chat request may have among its messages.

    Raises:
        InvalidRequestError: Names the field below `param`.
    """
    try:
        validate(_OneMessage, {"message": message})
    except InvalidRequestError as error:
        place = param + (error.param or "").removeprefix("message")
        text = error.message.replace(f"'{error.param}'", f"'{place}'", 1)
        raise InvalidRequestError(text, param=place, code=error.code) from error


def check_order(messages: Sequence[Message], *, stored: int = 0) -> None:
    """Refuse tool results nobody asked for, unanswered or repeated tool calls, and a system message that comes last.

    Args:
        stored: So many of the first messages were not sent with the request; errors count from those behind them.

    Raises:
        InvalidRequestError: Names the message at fault.
    """
    open_calls: dict[str, None] = {}
    asked = False
    for index, message in enumerate(messages, start=-stored):
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in open_calls:
                reason = _unexpected_result(message.tool_call_id, asked=asked)
                raise InvalidRequestError(reason, param=f"messages.{index}.tool_call_id", code="invalid_tool_call_id")
            del open_calls[message.tool_call_id]
            continue
        _refuse_unanswered(open_calls, index)
        asked = False
        if isinstance(message, AssistantMessage) and message.tool_calls:
            asked = True
            open_calls = _opened(message.tool_calls, index)
    _refuse_unanswered(open_calls, len(messages) - 1 - stored)
    is_system = [isinstance(message, SystemMessage) for message in messages]
    if is_system[-1] and not all(is_system):
        raise InvalidRequestError(
            "The last message must not be of role 'system' or 'developer': move the instruction to the front and end with "
            "the user's question.",
            param=f"messages.{len(messages) - 1 - stored}.role",
        )


def _opened(calls: Sequence[ToolCall], index: int) -> dict[str, None]:
    opened: dict[str, None] = {}
    for position, call in enumerate(calls):
        if call.id in opened:
            raise InvalidRequestError(
                f"The tool call id {call.id!r} is used twice in one message; give each call its own id.",
                param=f"messages.{index}.tool_calls.{position}.id",
                code="invalid_tool_call_id",
            )
        opened[call.id] = None
    return opened


def _refuse_unanswered(open_calls: dict[str, None], index: int) -> None:
    if open_calls:
        ids = ", ".join(repr(call_id) for call_id in list(open_calls)[:5])
        raise InvalidRequestError(
            f"An assistant message with 'tool_calls' must be followed by one 'tool' message per call; no result for: {ids}.",
            param=f"messages.{index}",
            code="invalid_tool_call_id",
        )


def _unexpected_result(call_id: str, *, asked: bool) -> str:
    if asked:
        return f"The result for tool call {call_id!r} is repeated, or the assistant message before it holds no such call."
    return f"A 'tool' message must follow an assistant message whose 'tool_calls' hold its id; there is no call {call_id!r}."
