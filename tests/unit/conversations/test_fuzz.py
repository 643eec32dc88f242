"""Whatever JSON arrives at the routes of conversations, the answer is a success or a typed refusal, never a 5xx."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.fake import MemoryStorage
from tests.unit.http.services import Parts
from tests.unit.http.test_fuzz import post, values

ITEM_FIELDS = ["type", "role", "content", "status", "call_id", "name", "arguments", "output", "tool_calls", "tool_call_id", "id"]
KINDS = ["message", "function_call", "function_call_output", "chat.message", "reasoning"]
PARTS = ["input_text", "output_text", "text", "refusal", "input_image", "input_file", "image_url", "file"]
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(PARTS) | values},
    optional={name: values for name in ("text", "refusal", "image_url", "file_id", "file_data", "detail", "file")},
)
items = st.fixed_dictionaries(
    {},
    optional={name: values for name in ITEM_FIELDS}
    | {
        "type": st.sampled_from(KINDS) | values,
        "role": st.sampled_from(["user", "assistant", "system", "tool"]) | values,
        "content": st.text(max_size=5) | st.lists(parts, max_size=3) | values,
        "message": values,
    },
)


@pytest.mark.parametrize("path", ["/v1/conversations", "/v1/conversations/{}/items", "/v1/conversations/{}"])
def test_any_items_end_in_an_answer_or_a_typed_refusal(app: FastAPI, path: str) -> None:
    service = Conversations(MemoryStorage(), check_message)
    app.state.services = Parts(conversations=service).services()
    conversation_id = asyncio.run(post(app, "/v1/conversations", {})).json()["id"]

    @settings(max_examples=60, deadline=None)
    @given(items=st.lists(items, max_size=3) | values, metadata=st.none() | values)
    def check(items: Any, metadata: Any) -> None:
        response = asyncio.run(post(app, path.format(conversation_id), {"items": items, "metadata": metadata}))
        if response.status_code != 200:
            assert response.status_code == 400, response.text
            assert list(response.json()["error"]) == ["message", "type", "param", "code"]

    check()
    listed = asyncio.run(read(app, f"/v1/conversations/{conversation_id}/items?limit=100"))
    assert listed.status_code == 200


async def read(app: FastAPI, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        return await http.get(path)
