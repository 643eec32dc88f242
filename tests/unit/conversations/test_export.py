"""An export holds everything, comes in pieces of bounded size, and can be put back."""

import json
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.schemas import ConversationCreate
from aihub.conversations.storage import Storage
from aihub.conversations.tables.messages import PAGE_BYTES
from aihub.conversations.tables.records import NewMessage
from aihub.conversations.tables.store import ConversationStore
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import NotFoundError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from tests.unit.conftest import KEYED
from tests.unit.conversations.conversation_parts import answer, begin, question
from tests.unit.http.services import Parts

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Trả lời ngắn."},
    {"role": "user", "content": "Thời tiết Huế? “24” \u2028 😀"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "24 độ"},
    {"role": "assistant", "content": "24 độ."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Ảnh này?"}, {"type": "image_url", "image_url": {"file_id": "file-1"}}],
    },
]


async def exported(conversations: Conversations, principal: Principal, conversation_id: str) -> dict[str, Any]:
    pieces = [piece async for piece in await conversations.export(principal, conversation_id)]
    document: dict[str, Any] = json.loads(b"".join(pieces))
    return document


async def test_export_holds_everything(storage: Storage, conversations: Conversations, principal: Principal) -> None:
    new = [question("hỏi"), answer("đáp"), NewMessage({"role": "assistant", "content": "dở"}, "incomplete", "qwen")]
    record = await storage.create(principal, metadata={"a": "b"}, title="Tên", new=new)
    document = await exported(conversations, principal, record.id)
    assert (document["object"], document["version"]) == ("chat.conversation.export", 1)
    assert document["conversation"] == {
        "id": record.id, "object": "chat.conversation", "title": "Tên", "model": "qwen", "metadata": {"a": "b"},
        "message_count": 3, "created_at": record.created_at, "updated_at": record.updated_at, "summary": None,
    }  # fmt: skip
    page = await storage.page(principal, record.id, limit=10)
    assert [message["id"] for message in document["messages"]] == [message.id for message in page.messages]
    assert [message["message"] for message in document["messages"]] == [message.message for message in new]
    assert document["messages"][1]["usage"] == {"total_tokens": 7}
    assert [message["status"] for message in document["messages"]] == ["completed", "completed", "incomplete"]


async def test_exported_messages_are_taken_back_as_items_and_by_a_chat(
    storage: Storage, conversations: Conversations, principal: Principal
) -> None:
    record = await storage.create(principal, metadata={}, title=None, new=[NewMessage(message) for message in TALK])
    messages = [message["message"] for message in (await exported(conversations, principal, record.id))["messages"]]
    assert messages == TALK
    copy = await conversations.create(principal, ConversationCreate(items=messages))
    again = (await exported(conversations, principal, copy.id))["messages"]
    assert [message["message"] for message in again] == TALK
    for message in messages:
        check_message(message, "messages")


async def test_export_of_an_empty_conversation_is_a_document(
    storage: Storage, conversations: Conversations, principal: Principal
) -> None:
    record = await begin(storage, principal)
    assert (await exported(conversations, principal, record.id))["messages"] == []


async def test_export_is_a_file_for_browsers(app: FastAPI, client: httpx.AsyncClient, parts: Parts) -> None:
    record = await begin(parts.conversations.storage, KEYED, "hỏi")
    response = await client.get(f"/api/v1/chat/conversations/{record.id}/export")
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-disposition"] == f'attachment; filename="{record.id}.json"'
    assert [message["message"]["content"] for message in response.json()["messages"]] == ["hỏi"]


async def test_hundred_thousand_messages_are_exported_in_small_pieces(
    database: Database, embedded_stores: StoreUrls, principal: Principal
) -> None:
    storage = ConversationStore(database)
    record = await begin(storage, principal)
    async with await psycopg.AsyncConnection.connect(embedded_stores.database_url, autocommit=True) as connection:
        await connection.execute(
            """
            INSERT INTO conversation_messages (tenant_id, conversation_id, position, id, role, message, size_bytes)
            SELECT %(tenant)s, %(id)s, n, 'msg_' || lpad(to_hex(n), 24, '0'), 'user',
                jsonb_build_object('role', 'user', 'content', 'câu ' || n), 40
            FROM generate_series(0, 99999) AS n
            """,
            {"tenant": principal.tenant_id, "id": record.id},
        )
    conversations = Conversations(storage, check_message)
    largest, total, count = 0, 0, 0
    async for piece in await conversations.export(principal, record.id):
        largest, total, count = max(largest, len(piece)), total + len(piece), count + piece.count(b'"msg_')
    assert count == 100_000
    assert total > 15_000_000
    assert largest < 200_000


async def test_large_messages_come_a_few_at_a_time(database: Database, principal: Principal) -> None:
    storage = ConversationStore(database)
    conversations = Conversations(storage, check_message)
    record = await storage.create(principal, metadata={}, title=None, new=[question("a" * 3_000_000) for _ in range(6)])
    pieces = [len(piece) async for piece in await conversations.export(principal, record.id)]
    assert sum(pieces) > 18_000_000
    assert max(pieces) < PAGE_BYTES + 3_100_000


async def test_export_of_what_is_deleted_meanwhile_breaks_off(
    database: Database, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aihub.conversations.export.PAGE_MESSAGES", 2)
    storage = ConversationStore(database)
    conversations = Conversations(storage, check_message)
    record = await begin(storage, principal, "a", "b", "c", "d", "e")
    pieces = await conversations.export(principal, record.id)
    await anext(pieces)
    await anext(pieces)
    await storage.delete(principal, record.id)
    with pytest.raises(NotFoundError):
        async for _ in pieces:
            pass


async def test_export_goes_on_behind_a_message_that_was_deleted_meanwhile(
    storage: Storage, conversations: Conversations, principal: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aihub.conversations.export.PAGE_MESSAGES", 2)
    record = await begin(storage, principal, "a", "b", "c", "d", "e")
    page = await storage.page(principal, record.id, limit=2)
    pieces = await conversations.export(principal, record.id)
    document = await anext(pieces) + await anext(pieces)
    await storage.edit(principal, record.id, page.messages[-1].id, lambda found: None)
    async for piece in pieces:
        document += piece
    assert [message["message"]["content"] for message in json.loads(document)["messages"]] == ["a", "b", "c", "d", "e"]


async def test_export_that_nobody_reads_on_holds_no_connection(embedded_stores: StoreUrls, principal: Principal) -> None:
    database = Database(embedded_stores.database_url, pool_size=1, timeout_s=2.0)
    await database.open()
    storage = ConversationStore(database)
    conversations = Conversations(storage, check_message)
    record = await begin(storage, principal, "a")
    left = [await conversations.export(principal, record.id) for _ in range(3)]
    for pieces in left:
        await anext(pieces)
    assert (await exported(conversations, principal, record.id))["messages"]
    for pieces in left:
        await pieces.aclose()
    await database.close()
