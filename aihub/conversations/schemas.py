"""Wire types of `/api/v1/chat/conversations`, of `/api/v1/chat/preferences`, and of OpenAI's `/v1/conversations`.

Items of the latter are in `aihub.conversations.items`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from aihub.conversations.messages import MAX_TITLE_CHARACTERS
from aihub.core.schemas import ClosedModel, LenientModel, Metadata, ModelName, Page, ResponseModel

MAX_ITEMS = 100
"""Items of one request; OpenAI takes 20."""

MAX_QUERY_CHARACTERS = 10_000
MAX_STYLE_CHARACTERS = 500

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TITLE_CHARACTERS)]


class SearchMatch(ResponseModel):
    """Where the words of a query were found: in a message, or in the title where `message_id` is null."""

    message_id: str | None
    snippet: str


class ConversationObject(ResponseModel):
    """One conversation. `title` is the beginning of its first question unless it was renamed; `model` gave the last answer."""

    id: str
    object: Literal["chat.conversation"] = "chat.conversation"
    title: str | None
    model: str | None
    metadata: dict[str, str]
    message_count: int
    created_at: int
    updated_at: int


class FoundConversation(ConversationObject):
    """`match` is null where nothing was searched for."""

    match: SearchMatch | None = None


class ConversationPage(ResponseModel):
    """Conversations, newest or best first; `next_cursor` is null on the last page."""

    object: Literal["list"] = "list"
    data: list[FoundConversation]
    has_more: bool
    next_cursor: str | None


class StoredMessage(ResponseModel):
    """One message; `message` is OpenAI's chat message. An `incomplete` answer was cut: by a cancel, a failure or a limit."""

    id: str
    message: dict[str, Any]
    status: Literal["completed", "incomplete"]
    model: str | None
    usage: dict[str, Any] | None
    request_id: str | None
    created_at: int


class ConversationDetails(ConversationObject):
    """A conversation with one page of its messages; `summary` tells the older ones where the hub has made one."""

    summary: str | None
    messages: Page[StoredMessage]


class ConversationUpdate(ClosedModel):
    """Fields that are absent stay; null clears."""

    title: Title | None = None
    metadata: Metadata | None = None


Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z]{2})?$")]


class PreferencesUpdate(ClosedModel):
    """Fields that are absent stay; null clears."""

    favourite_model: ModelName | None = Field(default=None, description="What `auto` chooses where it can.")
    language: Language | None = Field(default=None, description="ISO 639 code to answer in, such as vi or pt-BR.")
    style: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_STYLE_CHARACTERS)] | None = Field(
        default=None, description="How to answer, in your words."
    )


class PreferencesObject(ResponseModel):
    """What the account prefers; null where it said nothing."""

    object: Literal["chat.preferences"] = "chat.preferences"
    favourite_model: str | None
    language: str | None
    style: str | None


class OpenAIConversation(ResponseModel):
    """A conversation as OpenAI's clients know it."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


Items = Annotated[list[dict[str, Any]], Field(max_length=MAX_ITEMS)]


class ConversationCreate(LenientModel):
    items: Items | None = None
    metadata: Metadata | None = None


class ConversationMetadata(LenientModel):
    """The new metadata replace the old ones; null clears them."""

    metadata: Metadata | None


class ItemsCreate(LenientModel):
    items: Annotated[Items, Field(min_length=1)]
