"""The official client in stored conversations of the whole application, in one process over real PostgreSQL and Redis."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import uvicorn
from fastapi import FastAPI

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.fake import FakeAuthenticator
from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.core.embedded.stores import StoreUrls
from aihub.core.postgres import Database
from tests.external_servers import free_port
from tests.unit.http.services import Parts
from tests.unit.pipelines.conversation_parts import StoredHub, stored_hub

KEY = ApiKey.generate()
PAGE = Path(__file__).resolve().parents[3] / "docs" / "conversations.md"


@pytest.fixture
async def replica(app: FastAPI, database: Database, embedded_stores: StoreUrls, tenant: str) -> AsyncIterator[StoredHub]:
    async with stored_hub(database, embedded_stores.redis_url, tenant) as opened:
        app.state.services = replace(
            Parts().services(),
            chat=opened.chat,
            authenticator=FakeAuthenticator({KEY.text: opened.principal}),
            conversations=Conversations(opened.store, check_message),
        )
        yield opened


@pytest.fixture
async def client(app: FastAPI, replica: StoredHub) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost")
    async with openai.AsyncOpenAI(base_url="http://localhost/v1", api_key=KEY.text, http_client=http, max_retries=0) as opened:
        yield opened


def question(text: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


async def test_conversation_goes_on_by_the_id_that_store_gave(client: openai.AsyncOpenAI, replica: StoredHub) -> None:
    first = await client.chat.completions.create(
        model="fake-chat", messages=question("Xin chào"), store=True, metadata={"shop": "7"}
    )
    conversation_id = first.conversation_id  # type: ignore[attr-defined]  # the hub's own field
    await client.chat.completions.create(
        model="fake-chat", messages=question("Và sau đó?"), extra_body={"conversation_id": conversation_id}
    )
    assert replica.prompt()[0] == ("user", "Xin chào")
    stored = await client.conversations.retrieve(conversation_id)
    assert stored.metadata == {"shop": "7"}
    items = [item async for item in client.conversations.items.list(conversation_id, order="asc")]
    assert len(items) == 4


async def test_stream_names_its_conversation_in_a_header_and_at_both_ends(client: openai.AsyncOpenAI) -> None:
    response = await client.chat.completions.with_raw_response.create(
        model="fake-chat", messages=question("Hi"), stream=True, extra_body={"store": True}
    )
    conversation_id = response.headers["x-aihub-conversation-id"]
    chunks = [chunk async for chunk in response.parse()]
    assert chunks[0].conversation_id == chunks[-1].conversation_id == conversation_id


@pytest.mark.parametrize("is_stream", [False, True])
async def test_question_and_answer_tell_the_request_that_they_came_with(client: openai.AsyncOpenAI, is_stream: bool) -> None:
    response = await client.chat.completions.with_raw_response.create(
        model="fake-chat", messages=question("Xin chào"), store=True, stream=is_stream
    )
    if is_stream:
        assert [chunk async for chunk in response.parse()]
    place = f"/api/v1/chat/conversations/{response.headers['x-aihub-conversation-id']}"
    headers = {"authorization": f"Bearer {KEY.text}"}
    listed = await client._client.get(f"http://localhost{place}", headers=headers)
    exported = await client._client.get(f"http://localhost{place}/export", headers=headers)
    for messages in (listed.json()["messages"]["data"], exported.json()["messages"]):
        assert [message["message"]["role"] for message in messages] == ["user", "assistant"]
        assert {message["request_id"] for message in messages} == {response.headers["x-request-id"]}


async def test_conversation_that_openais_own_route_made_is_continued(client: openai.AsyncOpenAI, replica: StoredHub) -> None:
    made = await client.conversations.create(items=[{"type": "message", "role": "user", "content": "Tôi là Lan."}])
    answer = await client.chat.completions.create(
        model="fake-chat", messages=question("Tôi là ai?"), extra_body={"conversation": made.id}
    )
    assert answer.choices[0].message.content is not None
    assert replica.prompt() == [("user", "Tôi là Lan.\nTôi là ai?")]


async def test_unknown_conversation_and_contradictions_are_told(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="fake-chat", messages=question("Hi"), extra_body={"conversation_id": "conv_0"})
    assert missing.value.code == "conversation_not_found"
    with pytest.raises(openai.BadRequestError) as several:
        await client.chat.completions.create(model="fake-chat", messages=question("Hi"), store=True, n=2)
    assert several.value.param == "n"
    with pytest.raises(openai.BadRequestError) as late:
        await client.chat.completions.create(
            model="fake-chat", messages=question("Hi"), metadata={"shop": "8"}, extra_body={"conversation_id": "conv_0"}
        )
    assert late.value.param == "metadata"
    assert "POST /v1/conversations/conv_0" in late.value.message


async def test_example_of_the_documentation_runs(app: FastAPI, replica: StoredHub, capsys: pytest.CaptureFixture[str]) -> None:
    _, example = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    text = example.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{port}").replace('api_key="none"', f'api_key="{KEY.text}"')
    names: dict[str, Any] = {}
    code = compile(text, str(PAGE), "exec")
    try:
        await asyncio.to_thread(exec, code, names)
        names["hub"].close()
    finally:
        server.should_exit = True
        await serving
    assert replica.prompt()[0] == ("user", "Tôi tên là Lan.")
    assert capsys.readouterr().out == ("You said: Tôi tên gì? {'turns': 1, 'turns_left_out': 0, 'summary': False}\n")
