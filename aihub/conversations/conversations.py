"""The service behind the routes: conversations, their items, preferences."""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from aihub.conversations.cursors import list_cursor, read_list_cursor, read_search_cursor, search_cursor
from aihub.conversations.export import open_export
from aihub.conversations.items import MessageCheck, make_items, message_id_of, read_items, without_item
from aihub.conversations.retention import Retention
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
from aihub.conversations.search import text_query
from aihub.conversations.serializers import (
    conversation_details,
    conversation_object,
    found_conversations,
    item_page,
    items_in_order,
    listed_conversation,
    preferences_object,
)
from aihub.conversations.storage import Storage
from aihub.conversations.tables.messages import not_found
from aihub.conversations.tables.records import ConversationChanges, MessageRecord, Order
from aihub.core.errors import HubError, InvalidRequestError, NotFoundError
from aihub.core.principal import Principal
from aihub.core.schemas import DeletedObject, Page

Forget = Callable[[Principal, str], Awaitable[None]]
RequireModel = Callable[[Principal, str], Awaitable[None]]

_CONVERSATION_ID = re.compile(r"conv_[0-9a-f]{24}")


class Conversations:
    """`aihub.conversations.service.ConversationService` over a storage.

    Args:
        check: Refuses messages that no chat would take.
        forget: Called with a conversation that was deleted, or lost an item, for copies elsewhere.
        require_model: Refuses a favourite model that cannot be one; without it each that the key is for may.
        days: After how many days without use a conversation is deleted; None keeps all.
    """

    def __init__(
        self,
        storage: Storage,
        check: MessageCheck,
        *,
        forget: Forget | None = None,
        require_model: RequireModel | None = None,
        days: int | None = None,
    ) -> None:
        self.storage = storage
        self._check = check
        self._forget = forget or _nothing
        self._require_model = require_model or _require_of_key
        self.retention = Retention(storage, days)

    async def close(self) -> None:
        """End what goes on beside requests."""
        await self.retention.close()

    async def create(self, principal: Principal, body: ConversationCreate) -> ConversationObject:
        self.retention.note_request()
        new = await self._read_items(body.items or [])
        return conversation_object(await self.storage.create(principal, metadata=body.metadata or {}, title=None, new=new))

    async def search(self, principal: Principal, *, limit: int, cursor: str | None, query: str | None) -> ConversationPage:
        self.retention.note_request()
        if query is None or not query.strip():
            records, has_more = await self.storage.recent(principal, limit=limit, behind=read_list_cursor(cursor))
            found = [listed_conversation(record) for record in records]
            return ConversationPage(data=found, has_more=has_more, next_cursor=list_cursor(records[-1]) if has_more else None)
        behind = read_search_cursor(cursor)
        words = await asyncio.to_thread(text_query, principal.tenant_id, principal.owner_id, query)
        if words is None:
            return ConversationPage(data=[], has_more=False, next_cursor=None)
        hits, has_more = await self.storage.search(principal, words, limit=limit, behind=behind)
        found = await asyncio.to_thread(found_conversations, hits, words)
        return ConversationPage(data=found, has_more=has_more, next_cursor=search_cursor(hits[-1]) if has_more else None)

    async def get(self, principal: Principal, conversation_id: str) -> ConversationObject:
        return conversation_object(await self.storage.get(principal, _known(conversation_id)))

    async def read(
        self, principal: Principal, conversation_id: str, *, limit: int, after: str | None, order: Order
    ) -> ConversationDetails:
        page = await self.storage.page(principal, _known(conversation_id), limit=limit, after=after, order=order)
        return conversation_details(page)

    async def update(self, principal: Principal, conversation_id: str, body: ConversationUpdate) -> ConversationObject:
        changes = ConversationChanges()
        if "title" in body.model_fields_set:
            changes["title"] = body.title
        if "metadata" in body.model_fields_set:
            changes["metadata"] = body.metadata
        if not changes:
            return await self.get(principal, conversation_id)
        self.retention.note_request()
        return conversation_object(await self.storage.update(principal, _known(conversation_id), changes))

    async def delete(self, principal: Principal, conversation_id: str) -> DeletedObject:
        await self.storage.delete(principal, _known(conversation_id))
        await self._forget(principal, conversation_id)
        return DeletedObject(id=conversation_id, object="conversation.deleted")

    async def export(self, principal: Principal, conversation_id: str) -> AsyncGenerator[bytes, None]:
        return await open_export(self.storage, principal, _known(conversation_id))

    async def add_items(self, principal: Principal, conversation_id: str, body: ItemsCreate) -> Page[dict[str, Any]]:
        self.retention.note_request()
        new = await self._read_items(body.items)
        stored = await self.storage.append(principal, _known(conversation_id), new)
        return item_page(items_in_order(list(stored), "asc"), has_more=False)

    async def items(
        self, principal: Principal, conversation_id: str, *, limit: int, after: str | None, order: Order
    ) -> Page[dict[str, Any]]:
        anchor = None if after is None else message_id_of(after)
        if after is not None and anchor is None:
            raise _no_anchor(after)
        # The message of the anchor comes again: it may have items behind it.
        page = await self.storage.page(
            principal, _known(conversation_id), limit=limit + 1, order=order, after=anchor, is_inclusive=True
        )
        items = items_in_order(page.messages, order)
        if after is not None:
            start = next((number for number, item in enumerate(items, start=1) if item["id"] == after), None)
            if start is None:
                raise _no_anchor(after)
            items = items[start:]
        return item_page(items[:limit], has_more=page.has_more or len(items) > limit)

    async def get_item(self, principal: Principal, conversation_id: str, item_id: str) -> dict[str, Any]:
        message_id = message_id_of(item_id)
        if message_id is None:
            await self.get(principal, conversation_id)
            raise _no_item(item_id)
        record = await self.storage.find(principal, _known(conversation_id), message_id)
        item = next((item for item in make_items(record) if item["id"] == item_id), None) if record is not None else None
        if item is None:
            raise _no_item(item_id)
        return item

    async def delete_item(self, principal: Principal, conversation_id: str, item_id: str) -> ConversationObject:
        def change(record: MessageRecord) -> dict[str, Any] | None:
            try:
                return without_item(record, item_id)
            except KeyError as error:
                raise _no_item(item_id) from error

        message_id = message_id_of(item_id)
        if message_id is None:
            await self.get(principal, conversation_id)
            raise _no_item(item_id)
        conversation = await self.storage.edit(principal, _known(conversation_id), message_id, change)
        if conversation is None:
            raise _no_item(item_id)
        await self._forget(principal, conversation_id)
        return conversation_object(conversation)

    async def preferences(self, principal: Principal) -> PreferencesObject:
        return preferences_object(await self.storage.read_preferences(principal))

    async def set_preferences(self, principal: Principal, body: PreferencesUpdate) -> PreferencesObject:
        if body.favourite_model is not None:
            try:
                await self._require_model(principal, body.favourite_model)
            except HubError as error:
                error.param = "favourite_model"
                raise
        changes = {name: getattr(body, name) for name in body.model_fields_set}
        return preferences_object(await self.storage.write_preferences(principal, changes))

    async def _read_items(self, items: list[dict[str, Any]]) -> list[Any]:
        """Items of megabytes are read in a thread."""
        return await asyncio.to_thread(read_items, items, self._check) if items else []


async def _nothing(principal: Principal, conversation_id: str) -> None:
    """Where there are no copies."""


async def _require_of_key(principal: Principal, model_id: str) -> None:
    principal.require_model(model_id)


def _known(conversation_id: str) -> str:
    """Raises: NotFoundError: It is no id of any conversation."""
    if _CONVERSATION_ID.fullmatch(conversation_id) is None:
        raise not_found(conversation_id)
    return conversation_id


def _no_item(item_id: str) -> NotFoundError:
    return NotFoundError(f"No item with id {item_id[:64]!r} in this conversation.", code="item_not_found")


def _no_anchor(item_id: str) -> InvalidRequestError:
    return InvalidRequestError(f"'after' names no item of this conversation: {item_id[:64]!r}.", param="after")
