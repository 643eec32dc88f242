"""Conversations in the memory of this process, for tests of what lies above."""

import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from aihub.conversations.conversations import Conversations
from aihub.conversations.items import MessageCheck
from aihub.conversations.messages import (
    MAX_MESSAGE_BYTES,
    MAX_MESSAGES,
    derive_title,
    message_json,
    message_text,
    searchable_text,
)
from aihub.conversations.search import TextQuery, spellings
from aihub.conversations.storage import MessagePage
from aihub.conversations.tables.messages import not_found
from aihub.conversations.tables.records import (
    ConversationChanges,
    ConversationRecord,
    MessageRecord,
    NewMessage,
    Order,
    PreferencesRecord,
    new_message_id,
)
from aihub.conversations.tables.search import SearchHit, SearchPlace
from aihub.core.errors import ConflictError, InvalidRequestError
from aihub.core.principal import Principal
from aihub.core.text_folding import split_words


class MemoryStorage:
    """`aihub.conversations.storage.Storage` in dictionaries. Calls never wait, so none sees another's half."""

    def __init__(self) -> None:
        self._records: dict[str, ConversationRecord] = {}
        self._messages: dict[str, list[MessageRecord]] = {}
        self._preferences: dict[tuple[str, str], PreferencesRecord] = {}
        self._now_us = 0

    async def create(
        self, principal: Principal, *, metadata: dict[str, str], title: str | None, new: Sequence[NewMessage]
    ) -> ConversationRecord:
        now_us = self._tick()
        record = ConversationRecord(
            tenant_id=principal.tenant_id,
            id=f"conv_{secrets.token_hex(12)}",
            owner_id=principal.owner_id,
            title=title,
            metadata=metadata,
            model=None,
            summary=None,
            summary_position=None,
            next_position=0,
            message_count=0,
            created_at=now_us // 1_000_000,
            updated_at_us=now_us,
        )
        _check_sizes(new)
        self._records[record.id], self._messages[record.id] = record, []
        await self.append(principal, record.id, new)
        return self._records[record.id]

    async def get(self, principal: Principal, conversation_id: str) -> ConversationRecord:
        record = self._records.get(conversation_id)
        if record is None or (record.tenant_id, record.owner_id) != (principal.tenant_id, principal.owner_id):
            raise not_found(conversation_id)
        return record

    async def recent(
        self, principal: Principal, *, limit: int, behind: tuple[int, str] | None
    ) -> tuple[list[ConversationRecord], bool]:
        own = sorted(self._own(principal), key=lambda record: (record.updated_at_us, record.id), reverse=True)
        rows = [record for record in own if behind is None or (record.updated_at_us, record.id) < behind]
        return rows[:limit], len(rows) > limit

    async def search(
        self, principal: Principal, query: TextQuery, *, limit: int, behind: SearchPlace | None
    ) -> tuple[list[SearchHit], bool]:
        hits = []
        for record in self._own(principal):
            texts = [(message.id, message.message) for message in self._messages[record.id] if searchable_text(message.message)]
            titled: list[tuple[str | None, str]] = [(key, message_text(message)) for key, message in texts]
            found = [hit for key, text in [*titled, (None, record.title or "")] if (hit := _hit(record, key, text, query))]
            if found:
                hits.append(max(found, key=lambda hit: (hit.is_exact, hit.score)))
        ranked = sorted(hits, key=_place, reverse=True)
        if behind is not None:
            seen = (behind.is_exact, behind.score, behind.updated_at_us, behind.id)
            ranked = [hit for hit in ranked if _place(hit) < seen]
        return ranked[:limit], len(ranked) > limit

    async def update(self, principal: Principal, conversation_id: str, changes: ConversationChanges) -> ConversationRecord:
        record = await self.get(principal, conversation_id)
        title = changes["title"] if "title" in changes else record.title
        metadata = (changes["metadata"] or {}) if "metadata" in changes else record.metadata
        return self._save(replace(record, title=title, metadata=metadata))

    async def delete(self, principal: Principal, conversation_id: str) -> None:
        await self.get(principal, conversation_id)
        del self._records[conversation_id], self._messages[conversation_id]

    async def delete_unused(self, days: int) -> int:
        oldest_us = time.time_ns() // 1000 - days * 86_400_000_000
        old = [record.id for record in self._records.values() if record.updated_at_us < oldest_us]
        for conversation_id in old:
            del self._records[conversation_id], self._messages[conversation_id]
        return len(old)

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
        record = await self.get(principal, conversation_id)
        rows = self._messages[conversation_id][:: 1 if order == "asc" else -1]
        if isinstance(after, int):
            rows = [message for message in rows if (message.position > after if order == "asc" else message.position < after)]
        elif after is not None:
            place = next((number for number, message in enumerate(rows) if message.id == after), None)
            if place is None:
                raise InvalidRequestError(f"'after' names no message of this conversation: {after[:64]!r}.", param="after")
            rows = rows[place if is_inclusive else place + 1 :]
        return MessagePage(record, rows[:limit], len(rows) > limit)

    async def find(self, principal: Principal, conversation_id: str, message_id: str) -> MessageRecord | None:
        await self.get(principal, conversation_id)
        return next((message for message in self._messages[conversation_id] if message.id == message_id), None)

    async def append(self, principal: Principal, conversation_id: str, new: Sequence[NewMessage]) -> Sequence[MessageRecord]:
        record = await self.get(principal, conversation_id)
        _check_sizes(new)
        if record.message_count + len(new) > MAX_MESSAGES:
            raise ConflictError("The conversation is full.", code="conversation_full")
        now_s = self._tick() // 1_000_000
        stored = [_stored(message, record.next_position + number, now_s) for number, message in enumerate(new)]
        self._messages[conversation_id] += stored
        titles = (derive_title(message.message) for message in new)
        models = (message.model for message in reversed(new))
        self._save(
            replace(
                record,
                title=record.title or next((title for title in titles if title), None),
                model=next((model for model in models if model), record.model),
                next_position=record.next_position + len(new),
                message_count=record.message_count + len(new),
            )
        )
        return stored

    async def edit(
        self,
        principal: Principal,
        conversation_id: str,
        message_id: str,
        change: Callable[[MessageRecord], dict[str, Any] | None],
    ) -> ConversationRecord | None:
        found = await self.find(principal, conversation_id, message_id)
        if found is None:
            return None
        message = change(found)
        kept = [] if message is None else [replace(found, message=message)]
        rows = self._messages[conversation_id]
        place = rows.index(found)
        rows[place : place + 1] = kept
        record = self._records[conversation_id]
        return self._save(replace(record, message_count=len(rows)))

    async def read_preferences(self, principal: Principal) -> PreferencesRecord:
        return self._preferences.get((principal.tenant_id, principal.owner_id), PreferencesRecord())

    async def write_preferences(self, principal: Principal, changes: dict[str, str | None]) -> PreferencesRecord:
        stored = replace(await self.read_preferences(principal), **changes)
        self._preferences[principal.tenant_id, principal.owner_id] = stored
        return stored

    def _own(self, principal: Principal) -> list[ConversationRecord]:
        own = (principal.tenant_id, principal.owner_id)
        return [record for record in self._records.values() if (record.tenant_id, record.owner_id) == own]

    def _save(self, record: ConversationRecord) -> ConversationRecord:
        self._records[record.id] = replace(record, updated_at_us=self._tick())
        return self._records[record.id]

    def _tick(self) -> int:
        self._now_us = max(time.time_ns() // 1000, self._now_us + 1)
        return self._now_us


def new_memory_conversations(check: MessageCheck = lambda message, param: None) -> Conversations:
    """Return the service over a memory of its own; it takes every message where no `check` is given."""
    return Conversations(MemoryStorage(), check)


def _check_sizes(new: Sequence[NewMessage]) -> None:
    if any(len(message_json(message.message).encode()) > MAX_MESSAGE_BYTES for message in new):
        raise InvalidRequestError("A message is too large to be kept.", code="message_too_large")


def _stored(new: NewMessage, position: int, now_s: int) -> MessageRecord:
    size_bytes = len(message_json(new.message).encode())
    return MessageRecord(
        id=new.id or new_message_id(),
        position=position,
        role=new.message["role"],
        message=json.loads(message_json(new.message)),
        status=new.status,
        model=new.model,
        usage=new.usage,
        request_id=new.request_id,
        size_bytes=size_bytes,
        created_at=now_s,
    )


def _hit(record: ConversationRecord, message_id: str | None, text: str, query: TextQuery) -> SearchHit | None:
    words = split_words(text)
    known = {spelling for word in words for spelling in spellings(word)}
    if not all(known.intersection(spellings(word)) for word in query.written):
        return None
    query_spellings = {spelling for word in query.written for spelling in spellings(word)}
    is_marked = query.plain != query.written
    is_exact = not is_marked or all(word in words for word in query.written)
    score = sum(not query_spellings.isdisjoint(spellings(word)) for word in words)
    return SearchHit(record, is_exact, float(score), message_id, text)


def _place(hit: SearchHit) -> tuple[bool, float, int, str]:
    return hit.is_exact, hit.score, hit.conversation.updated_at_us, hit.conversation.id
