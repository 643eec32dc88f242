"""Protocol of stored conversations, as the HTTP edge calls it."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from aihub.conversations.schemas import (
    ConversationCreate,
    ConversationDetails,
    ConversationObject,
    ConversationPage,
    ConversationUpdate,
    ItemsCreate,
    PreferencesObject,
    PreferencesUpdate,
)
from aihub.conversations.tables.records import Order
from aihub.core.principal import Principal
from aihub.core.schemas import DeletedObject, Page


class ConversationService(Protocol):
    """Conversations, their messages and items, and the preferences of the caller.

    A conversation belongs to the account that began it. All methods raise `NotFoundError` for one that is not there or is
    somebody else's, and `StorageUnavailableError` while PostgreSQL is away.
    """

    async def create(self, principal: Principal, body: ConversationCreate) -> ConversationObject:
        """Store a new conversation with its first items.

        Raises:
            InvalidRequestError: An item cannot be kept.
        """
        ...

    async def search(self, principal: Principal, *, limit: int, cursor: str | None, query: str | None) -> ConversationPage:
        """Return conversations, the last changed first; with a query those whose texts have all its words, best first.

        Raises:
            InvalidRequestError: `cursor` is not one of this listing.
        """
        ...

    async def get(self, principal: Principal, conversation_id: str) -> ConversationObject: ...

    async def read(
        self, principal: Principal, conversation_id: str, *, limit: int, after: str | None, order: Order
    ) -> ConversationDetails:
        """Return a conversation with one page of its messages.

        Raises:
            InvalidRequestError: `after` names no message of it.
        """
        ...

    async def update(self, principal: Principal, conversation_id: str, body: ConversationUpdate) -> ConversationObject: ...

    async def delete(self, principal: Principal, conversation_id: str) -> DeletedObject: ...

    async def export(self, principal: Principal, conversation_id: str) -> AsyncGenerator[bytes, None]:
        """Return a JSON document with everything of a conversation, piece by piece.

        Whatever fails behind the first piece, a deletion included, breaks the stream off, so that no half looks whole.
        """
        ...

    async def add_items(self, principal: Principal, conversation_id: str, body: ItemsCreate) -> Page[dict[str, Any]]:
        """Store items at the end, all or none.

        Raises:
            InvalidRequestError: An item cannot be kept.
            ConflictError: The conversation is full.
        """
        ...

    async def items(
        self, principal: Principal, conversation_id: str, *, limit: int, after: str | None, order: Order
    ) -> Page[dict[str, Any]]:
        """Return one page of items.

        Raises:
            InvalidRequestError: `after` names no item of it.
        """
        ...

    async def get_item(self, principal: Principal, conversation_id: str, item_id: str) -> dict[str, Any]:
        """Raises: NotFoundError: There is no such item, either."""
        ...

    async def delete_item(self, principal: Principal, conversation_id: str, item_id: str) -> ConversationObject:
        """Delete one item and return its conversation.

        Raises:
            NotFoundError: There is no such item.
        """
        ...

    async def preferences(self, principal: Principal) -> PreferencesObject: ...

    async def set_preferences(self, principal: Principal, body: PreferencesUpdate) -> PreferencesObject:
        """Change what the caller prefers. A favourite that is removed later stays, and `auto` goes without it.

        Raises:
            NotFoundError: The favourite is none that `auto` chooses from (`model_not_found`).
            PermissionDeniedError: The key is not for it.
            ModelUnavailableError: Which models there are is not known now.
        """
        ...
