"""A conversation as one JSON document, made piece by piece so that its length does not matter.

`{"object": "chat.conversation.export", "version": 1, "conversation": {...}, "messages": [...]}`, messages in their order. Each
holds OpenAI's chat message in `message`, which `/v1/conversations` takes as an item and `/v1/chat/completions` in `messages`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from aihub.conversations.serializers import conversation_object, stored_message
from aihub.conversations.storage import MessagePage, Storage
from aihub.core.principal import Principal

VERSION = 1
PAGE_MESSAGES = 500


async def open_export(storage: Storage, principal: Principal, conversation_id: str) -> AsyncGenerator[bytes, None]:
    """Read the first messages and return the document's pieces.

    Raises:
        NotFoundError: There is no such conversation.
        StorageUnavailableError: PostgreSQL does not answer.
    """
    first = await storage.page(principal, conversation_id, limit=PAGE_MESSAGES)
    return _pieces(storage, principal, first)


async def _pieces(storage: Storage, principal: Principal, page: MessagePage) -> AsyncGenerator[bytes, None]:
    record = page.conversation
    conversation = conversation_object(record).model_dump() | {"summary": record.summary}
    head = {"object": "chat.conversation.export", "version": VERSION, "conversation": conversation}
    yield _json(head)[:-1] + b',"messages":['
    separator = b""
    while page.messages:
        yield separator + await asyncio.to_thread(_messages_json, page)
        separator = b","
        if not page.has_more:
            break
        page = await storage.page(principal, record.id, limit=PAGE_MESSAGES, after=page.messages[-1].position)
    yield b"]}\n"


def _messages_json(page: MessagePage) -> bytes:
    return b",".join(_json(stored_message(message).model_dump()) for message in page.messages)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
