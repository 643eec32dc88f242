"""Conversations in PostgreSQL, each call with a connection of its own."""

from collections.abc import Callable, Sequence
from typing import Any

from aihub.conversations.search import TextQuery
from aihub.conversations.storage import MessagePage
from aihub.conversations.tables import conversations, messages, preferences, search
from aihub.conversations.tables.records import (
    ConversationChanges,
    ConversationRecord,
    MessageRecord,
    NewMessage,
    Order,
    PreferencesRecord,
)
from aihub.conversations.tables.search import SearchHit, SearchPlace
from aihub.core.errors import InvalidRequestError
from aihub.core.postgres import Database
from aihub.core.principal import Principal

DELETE_TIMEOUT_S = 60.0
"""For a conversation of very many messages."""


class ConversationStore:
    """`aihub.conversations.storage.Storage` over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(
        self, principal: Principal, *, metadata: dict[str, str], title: str | None, new: Sequence[NewMessage]
    ) -> ConversationRecord:
        async with self._database.transaction() as connection:
            return await conversations.create_conversation(connection, principal, metadata=metadata, title=title, messages=new)

    async def get(self, principal: Principal, conversation_id: str) -> ConversationRecord:
        async with self._database.connection() as connection:
            return await conversations.get_conversation(connection, principal, conversation_id)

    async def recent(
        self, principal: Principal, *, limit: int, behind: tuple[int, str] | None
    ) -> tuple[list[ConversationRecord], bool]:
        async with self._database.connection() as connection:
            return await conversations.list_conversations(connection, principal, limit=limit, behind=behind)

    async def search(
        self, principal: Principal, query: TextQuery, *, limit: int, behind: SearchPlace | None
    ) -> tuple[list[SearchHit], bool]:
        async with self._database.connection() as connection:
            return await search.search_conversations(connection, principal, query, limit=limit, behind=behind)

    async def update(self, principal: Principal, conversation_id: str, changes: ConversationChanges) -> ConversationRecord:
        async with self._database.transaction() as connection:
            return await conversations.update_conversation(connection, principal, conversation_id, changes)

    async def delete(self, principal: Principal, conversation_id: str) -> None:
        async with self._database.transaction(timeout_s=DELETE_TIMEOUT_S) as connection:
            await conversations.delete_conversation(connection, principal, conversation_id)

    async def delete_unused(self, days: int) -> int:
        async with self._database.transaction(timeout_s=DELETE_TIMEOUT_S) as connection:
            return await conversations.delete_unused(connection, days)

    async def page(
        self,
        principal: Principal,
        conversation_id: str,
        *,
        limit: int,
        order: Order = "asc",
        after: str | int | None = None,
        is_inclusive: bool = False,
    ) -> MessagePage:
        async with self._database.transaction(snapshot=True) as connection:
            record = await conversations.get_conversation(connection, principal, conversation_id)
            behind = after if isinstance(after, int) else None
            if isinstance(after, str):
                anchor = await messages.find_message(connection, principal.tenant_id, conversation_id, after)
                if anchor is None:
                    raise InvalidRequestError(f"'after' names no message of this conversation: {after[:64]!r}.", param="after")
                step = -1 if order == "asc" else 1
                behind = anchor.position + (step if is_inclusive else 0)
            rows, has_more = await messages.read_messages(
                connection, principal.tenant_id, conversation_id, limit=limit, behind=behind, order=order
            )
        return MessagePage(record, rows, has_more)

    async def find(self, principal: Principal, conversation_id: str, message_id: str) -> MessageRecord | None:
        async with self._database.connection() as connection:
            await conversations.get_conversation(connection, principal, conversation_id)
            return await messages.find_message(connection, principal.tenant_id, conversation_id, message_id)

    async def append(self, principal: Principal, conversation_id: str, new: Sequence[NewMessage]) -> Sequence[MessageRecord]:
        async with self._database.transaction() as connection:
            return await messages.append_messages(connection, principal, conversation_id, new)

    async def edit(
        self,
        principal: Principal,
        conversation_id: str,
        message_id: str,
        change: Callable[[MessageRecord], dict[str, Any] | None],
    ) -> ConversationRecord | None:
        async with self._database.transaction() as connection:
            await conversations.get_conversation(connection, principal, conversation_id, lock=True)
            found = await messages.find_message(connection, principal.tenant_id, conversation_id, message_id)
            if found is None:
                return None
            await messages.replace_message(connection, principal, conversation_id, found.position, change(found))
            return await conversations.get_conversation(connection, principal, conversation_id)

    async def read_preferences(self, principal: Principal) -> PreferencesRecord:
        async with self._database.connection() as connection:
            return await preferences.read_preferences(connection, principal)

    async def write_preferences(self, principal: Principal, changes: dict[str, str | None]) -> PreferencesRecord:
        async with self._database.transaction() as connection:
            return await preferences.write_preferences(connection, principal, changes)
