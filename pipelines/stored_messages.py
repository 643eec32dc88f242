"""Messages of a chat as they are stored: what was asked without the data of its media, what was said as it was heard."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aihub.chat.messages import AssistantMessage, Message, ToolMessage, UserMessage
from aihub.chat.parts import (
    AnyPart,
    AudioPart,
    FilePart,
    ImagePart,
    InlineSource,
    MediaSource,
    RefusalPart,
    RemoteSource,
    TextPart,
    UploadedSource,
    VideoPart,
)
from aihub.conversations.tables.records import MessageStatus, NewMessage

_KEPT_FIELDS = ("content", "tool_calls", "annotations", "refusal")


def stored_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return messages of a request as JSON values in OpenAI's form.

    Of media that came in base64 the size stays, of others the file's id or the address.
    """
    return [_stored_message(message) for message in messages]


def _stored_message(message: Message) -> dict[str, Any]:
    stored: dict[str, Any] = {"role": message.role}
    if isinstance(message, UserMessage) and message.parts:
        stored["content"] = [_stored_part(part) for part in message.parts]
    else:
        stored["content"] = message.content
    if isinstance(message, ToolMessage):
        return stored | {"tool_call_id": message.tool_call_id}
    if message.name is not None:
        stored["name"] = message.name
    if isinstance(message, AssistantMessage) and message.tool_calls:
        stored["tool_calls"] = [call.model_dump(mode="json") for call in message.tool_calls]
    return stored


def _stored_part(part: AnyPart) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": part.type, "image_url": _stored_source(part.source) | {"detail": part.image_url.detail}}
    if isinstance(part, AudioPart):
        return {"type": part.type, "input_audio": _stored_source(part.source) | {"format": part.input_audio.format}}
    if isinstance(part, VideoPart):
        return {"type": part.type, "video_url": _stored_source(part.source)}
    if isinstance(part, FilePart):
        name = {"filename": part.file.filename} if part.file.filename else {}
        return {"type": part.type, "file": _stored_source(part.source) | name}
    if isinstance(part, TextPart | RefusalPart):
        return {"type": "text", "text": part.text}
    raise ValueError("a request is stored before its media are read")


def _stored_source(source: MediaSource) -> dict[str, Any]:
    if isinstance(source, UploadedSource):
        return {"file_id": source.file_id}
    if isinstance(source, RemoteSource):
        return {"url": source.url}
    assert isinstance(source, InlineSource)  # noqa: S101  # the third and last
    return {"size_bytes": len(source.base64) * 3 // 4}


def answer_message(answer: Mapping[str, Any], asked_model: str) -> NewMessage:
    """Return the first choice of a `chat.completion`."""
    choice = answer["choices"][0]
    said = choice["message"]
    message = {"role": "assistant", "content": ""} | {name: said[name] for name in _KEPT_FIELDS if said.get(name)}
    return NewMessage(
        message, _status(choice.get("finish_reason")), model=answer.get("model") or asked_model, usage=answer.get("usage")
    )


def _status(finish_reason: str | None) -> MessageStatus:
    return "completed" if finish_reason not in {None, "length"} else "incomplete"


@dataclass(slots=True)
class HeardAnswer:
    """What a chat stream has said so far, its calls of tools included.

    Attributes:
        asked_model: The model's name where the stream gives none.
        finish_reason: None before the answer is whole.
    """

    asked_model: str
    finish_reason: str | None = None
    _model: str = ""
    _usage: dict[str, Any] | None = None
    _texts: list[str] = field(default_factory=list)
    _calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    _annotations: list[dict[str, Any]] = field(default_factory=list)

    def listen(self, chunk: Mapping[str, Any]) -> None:
        """Take one chunk."""
        self._model = chunk.get("model") or self._model
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta") or {}
            if delta.get("content"):
                self._texts.append(delta["content"])
            self._annotations += delta.get("annotations") or ()
            for call in delta.get("tool_calls") or ():
                self._add_call(call)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been said, and the model has not come to its end either."""
        return not (self._texts or self._calls or self.finish_reason)

    def said(self) -> NewMessage | None:
        """Return the answer as it is by now; None while it is empty."""
        if self.is_empty:
            return None
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._texts)}
        if self._calls:
            message["tool_calls"] = [call | {"function": dict(call["function"])} for _, call in sorted(self._calls.items())]
        if self._annotations:
            message["annotations"] = list(self._annotations)
        return NewMessage(message, _status(self.finish_reason), model=self._model or self.asked_model, usage=self._usage)

    def _add_call(self, delta: Mapping[str, Any]) -> None:
        number = delta.get("index") or 0
        call = self._calls.setdefault(number, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        call["id"] = delta.get("id") or call["id"]
        function = delta.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
