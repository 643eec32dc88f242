"""The official `openai` client against `/v1/conversations` over PostgreSQL, on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI
from openai.types.conversations import Conversation, Message
from openai.types.responses import ResponseFunctionToolCallItem, ResponseFunctionToolCallOutputItem

from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.tables.store import ConversationStore
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.http.services import get_principal
from tests.unit.documents.routes.document_hub import Clients, official_clients
from tests.unit.http.services import Parts

USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Thời tiết Huế?"}]}
CALL = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Huế"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "24 độ"}
ANSWER = {"role": "assistant", "content": "Huế 24 độ."}


@pytest.fixture
async def clients(app: FastAPI, database: Database, principal: Principal) -> AsyncIterator[Clients]:
    async def caller() -> Principal:
        return principal

    app.state.services = replace(Parts().services(), conversations=Conversations(ConversationStore(database), check_message))
    app.dependency_overrides[get_principal] = caller
    async with official_clients(app) as both:
        yield both
    app.dependency_overrides.clear()


@pytest.fixture
def hub(clients: Clients) -> AsyncOpenAI:
    return clients.asynchronous


async def test_conversation_is_created_read_changed_and_deleted(hub: AsyncOpenAI) -> None:
    created = await hub.conversations.create(metadata={"nhóm": "a"}, items=[{"role": "user", "content": "chào"}])
    assert (created.object, created.metadata) == ("conversation", {"nhóm": "a"})
    assert created.id.startswith("conv_")
    assert await hub.conversations.retrieve(created.id) == created
    changed = await hub.conversations.update(created.id, metadata={"nhóm": "b"})
    assert (changed.id, changed.metadata) == (created.id, {"nhóm": "b"})
    assert (await hub.conversations.update(created.id, metadata=None)).metadata == {}
    deleted = await hub.conversations.delete(created.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (created.id, True, "conversation.deleted")
    with pytest.raises(openai.NotFoundError) as caught:
        await hub.conversations.retrieve(created.id)
    assert caught.value.code == "conversation_not_found"


async def test_conversation_without_anything_is_empty(hub: AsyncOpenAI) -> None:
    created = await hub.conversations.create()
    items = await hub.conversations.items.list(created.id)
    assert (items.data, items.has_more) == ([], False)


async def test_items_are_added_listed_and_read(hub: AsyncOpenAI) -> None:
    conversation = await hub.conversations.create()
    added = await hub.conversations.items.create(conversation.id, items=[USER, CALL, OUTPUT, ANSWER])
    user, call, output, answer = added.data
    assert (added.object, added.has_more, added.first_id, added.last_id) == ("list", False, user.id, answer.id)
    assert isinstance(user, Message) and isinstance(answer, Message)
    assert (user.role, user.status, user.content[0].type) == ("user", "completed", "input_text")
    assert (answer.content[0].type, getattr(answer.content[0], "text", "")) == ("output_text", "Huế 24 độ.")
    assert isinstance(call, ResponseFunctionToolCallItem)
    assert (call.call_id, call.name, call.arguments, call.status) == ("call_1", "weather", '{"city": "Huế"}', "completed")
    assert isinstance(output, ResponseFunctionToolCallOutputItem)
    assert (output.call_id, output.output) == ("call_1", "24 độ")
    for item in added.data:
        assert await hub.conversations.items.retrieve(item.id or "", conversation_id=conversation.id) == item
    assert [item async for item in hub.conversations.items.list(conversation.id, order="asc")] == added.data


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_of_items_cut_messages_with_several_anywhere(hub: AsyncOpenAI, order: str, limit: int) -> None:
    function = {"name": "weather", "arguments": "{}"}
    calls = [{"id": f"call_{number}", "type": "function", "function": function} for number in range(3)]
    several = {"role": "assistant", "content": "Tôi xem.", "tool_calls": calls}
    results = [{"role": "tool", "tool_call_id": f"call_{number}", "content": str(number)} for number in range(3)]
    items: Any = [USER, several, *results, ANSWER]
    conversation = await hub.conversations.create(items=items)
    pages = hub.conversations.items.list(conversation.id, limit=limit, order="asc" if order == "asc" else "desc")
    seen = [item async for item in pages]
    kinds = ["message", "message", *["function_call"] * 3, *["function_call_output"] * 3, "message"]
    assert [item.type for item in seen] == (kinds if order == "asc" else kinds[::-1])
    assert len({item.id for item in seen}) == len(kinds)


async def test_one_item_is_deleted_and_the_others_stay(hub: AsyncOpenAI) -> None:
    conversation = await hub.conversations.create(items=[USER, CALL, OUTPUT, ANSWER])
    before = [item async for item in hub.conversations.items.list(conversation.id, order="asc")]
    left: Conversation = await hub.conversations.items.delete(before[1].id or "", conversation_id=conversation.id)
    assert left == conversation
    after = [item async for item in hub.conversations.items.list(conversation.id, order="asc")]
    assert after == [before[0], before[2], before[3]]
    for again in (hub.conversations.items.delete, hub.conversations.items.retrieve):
        with pytest.raises(openai.NotFoundError) as caught:
            await again(before[1].id or "", conversation_id=conversation.id)
        assert caught.value.code == "item_not_found"


async def test_wrong_items_leave_nothing_behind(hub: AsyncOpenAI) -> None:
    conversation = await hub.conversations.create()
    with pytest.raises(openai.BadRequestError) as caught:
        await hub.conversations.items.create(conversation.id, items=[USER, {"type": "reasoning", "id": "r", "summary": []}])
    assert caught.value.param == "items.1.type"
    with pytest.raises(openai.BadRequestError) as caught:
        await hub.conversations.items.create(conversation.id, items=[USER] * 101)
    assert caught.value.param == "items"
    with pytest.raises(openai.BadRequestError) as caught:
        await hub.conversations.items.list(conversation.id, after="msg_" + "0" * 24)
    assert caught.value.param == "after"
    assert (await hub.conversations.items.list(conversation.id)).data == []


async def test_blocking_client_writes_at_the_same_time(clients: Clients, hub: AsyncOpenAI) -> None:
    conversation = await hub.conversations.create()
    one = asyncio.to_thread(clients.sync.conversations.items.create, conversation.id, items=[USER, ANSWER])
    await asyncio.gather(one, *(hub.conversations.items.create(conversation.id, items=[USER, ANSWER]) for _ in range(4)))
    roles = [getattr(item, "role", "") async for item in hub.conversations.items.list(conversation.id, order="asc")]
    assert roles == ["user", "assistant"] * 5
