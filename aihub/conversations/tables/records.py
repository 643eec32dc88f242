"""Rows as the rest of the product sees them: frozen, typed, with times as Unix seconds."""

import secrets
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

Role = Literal["system", "developer", "user", "assistant", "tool"]
MessageStatus = Literal["completed", "incomplete"]
Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """One conversation.

    Attributes:
        title: The beginning of its first question unless it was renamed; None before either.
        model: Of its last answer.
        summary: Of the messages up to `summary_position`, which is the position of the last one in it; None without one.
        next_position: What the next message gets; positions of deleted messages are not used again.
        updated_at_us: Last message or change, in microseconds: what listings are ordered by.
    """

    tenant_id: str
    id: str
    owner_id: str
    title: str | None
    metadata: dict[str, str]
    model: str | None
    summary: str | None
    summary_position: int | None
    next_position: int
    message_count: int
    created_at: int
    updated_at_us: int

    @property
    def updated_at(self) -> int:
        return self.updated_at_us // 1_000_000


def new_message_id() -> str:
    """Return an id that no other message has."""
    return f"msg_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be stored.

    Attributes:
        message: OpenAI's chat message, with its `role`.
        status: `incomplete` for an answer that was cut: by a cancel, a failure or its most tokens.
        model: Who answered; None for what the caller sent.
        usage: OpenAI's usage object of the answer.
        request_id: Of the request that it came with.
        id: One of `new_message_id`; made when it is stored where None.
    """

    message: dict[str, Any]
    status: MessageStatus = "completed"
    model: str | None = None
    usage: dict[str, Any] | None = None
    request_id: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One stored message; fields as in `NewMessage`.

    Attributes:
        position: Ascends in the order of the conversation, with gaps where messages were deleted.
        size_bytes: Of `message` as JSON.
    """

    id: str
    position: int
    role: Role
    message: dict[str, Any]
    status: MessageStatus
    model: str | None
    usage: dict[str, Any] | None
    request_id: str | None
    size_bytes: int
    created_at: int


class ConversationChanges(TypedDict, total=False):
    """Fields of a conversation to change; an absent key stays, None clears."""

    title: str | None
    metadata: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class PreferencesRecord:
    """What an account prefers; None where it said nothing."""

    favourite_model: str | None = None
    language: str | None = None
    style: str | None = None
