"""A request that goes on with a stored conversation, as the model gets it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from aihub.chat.messages import Message, SystemMessage, ToolMessage, UserMessage, check_order
from aihub.chat.parts import MediaPart, ReadyImage, ReadyText, TextPart
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import estimate_tokens
from aihub.chat.tools import HubTool
from aihub.conversations.history import HistoryTurn, StoredHistory, instructions_of, turns_of
from aihub.conversations.tables.records import PreferencesRecord

logger = logging.getLogger(__name__)

_messages = TypeAdapter(list[Message])

_SUMMARY = "Summary of the earlier part of this conversation:"
_LANGUAGES = {"en": "English", "vi": "Vietnamese"}


@dataclass(frozen=True, slots=True)
class PastTurn:
    """A turn of the past, as messages of a request, with its size by estimate."""

    messages: Sequence[Message]
    last_position: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ConversationRequest:
    """A request and the past that it goes on from.

    Attributes:
        turns: All that is known, oldest first.
        instructions: What stands at the front: the request's own system messages, or else the stored ones, or else what the
            caller prefers.
        said: Messages of the request behind its own system messages.
    """

    request: ChatCompletionRequest
    turns: Sequence[PastTurn]
    instructions: Sequence[str]
    said: Sequence[Message]
    summary: str | None = None

    @property
    def awaits_results(self) -> bool:
        return _awaits_results(self.said)

    def with_turns(self, count: int) -> ChatCompletionRequest:
        """Return the request with the newest `count` turns before it, and the summary where that leaves some out.

        Raises:
            InvalidRequestError: The request does not follow from them: results that no tool was called for, or not all.
        """
        turns = self.turns[len(self.turns) - count :]
        texts = [*self.instructions]
        if count < len(self.turns) and self.summary:
            texts.append(f"{_SUMMARY}\n{self.summary}")
        past = [message for turn in turns for message in turn.messages]
        said = list(self.said)
        open_question = past[-1] if past else None
        if isinstance(open_question, UserMessage) and said and isinstance(said[0], UserMessage):
            past.pop()
            said[0] = _behind(open_question, said[0])
        front = [SystemMessage(role="system", content="\n\n".join(texts))] if texts else []
        messages = [*front, *past, *said]
        own = len(self.request.messages) - len(self.said)
        check_order(messages, stored=len(messages) - len(said) - own)
        changes = {"messages": messages, "conversation": None, "conversation_id": None, "store": None, "metadata": None}
        return self.request.model_copy(update=changes)


def continue_conversation(
    request: ChatCompletionRequest, history: StoredHistory, preferences: PreferencesRecord
) -> ConversationRequest:
    """Put a request behind a history."""
    own = next((i for i, message in enumerate(request.messages) if not isinstance(message, SystemMessage)), len(request.messages))
    said = request.messages[own:]
    own_texts = [message.content or "" for message in request.messages[:own]]
    instructions = own_texts or instructions_of(history.messages) or wishes_of(preferences)
    turns = [_past_turn(turn) for turn in turns_of(history.messages, awaits_results=_awaits_results(said))]
    return ConversationRequest(request, [turn for turn in turns if turn is not None], instructions, said, history.summary)


def wishes_of(preferences: PreferencesRecord) -> list[str]:
    """Return what a caller prefers as an instruction; none where nothing is."""
    wishes = []
    if preferences.language:
        wishes.append(
            f"Answer in {_LANGUAGES.get(preferences.language, preferences.language)}, unless asked for another language."
        )
    if preferences.style:
        wishes.append(f"Style of the answer: {preferences.style}")
    return ["\n".join(wishes)] if wishes else []


def with_wishes(request: ChatCompletionRequest, preferences: PreferencesRecord) -> ChatCompletionRequest:
    """Return a request with what its caller prefers; as it is where it has a system message of its own."""
    wishes = wishes_of(preferences)
    if not wishes or any(isinstance(message, SystemMessage) for message in request.messages):
        return request
    return request.model_copy(update={"messages": [SystemMessage(role="system", content=wishes[0]), *request.messages]})


def countable_body(request: ChatCompletionRequest) -> dict[str, Any]:
    """Return the engine's body of a request to count its tokens by.

    An image without data stands for each recording, image or file, and the hub's own tools are left out.
    """
    messages = [
        message.with_parts([ReadyImage("") if isinstance(part, MediaPart) else part for part in message.parts])
        if isinstance(message, UserMessage) and message.media
        else message
        for message in request.messages
    ]
    tools = [tool for tool in request.tools or () if not isinstance(tool, HubTool)] or None
    return request.model_copy(update={"messages": messages, "tools": tools, "tool_choice": None}).to_engine_body()


def _past_turn(turn: HistoryTurn) -> PastTurn | None:
    try:
        messages = _messages.validate_python(list(turn.messages))
    except ValidationError:  # such as a tool's name that a model made up
        logger.warning("A stored turn is left out of a history: it cannot be a part of a request.")
        return None
    return PastTurn(messages, turn.last_position, estimate_tokens({"messages": turn.messages}))


def _awaits_results(said: Sequence[Message]) -> bool:
    return bool(said) and isinstance(said[0], ToolMessage)


def _behind(before: UserMessage, message: UserMessage) -> UserMessage:
    """Join a stored question that has no answer with the next one, which stays the question that sources are searched for."""
    parts = list(message.parts) or [TextPart(type="text", text=message.content)]
    return message.with_parts([ReadyText(before.content), *parts])
