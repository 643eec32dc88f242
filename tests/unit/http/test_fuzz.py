"""Whatever JSON arrives, the answer is a success or a typed 4xx in OpenAI's shape, never a 5xx."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.chat.completions import CompletionRequest
from aihub.chat.sampling import REFUSED_FIELDS
from aihub.chat.schemas import ChatCompletionRequest
from tests.unit.conftest import chat_body
from tests.unit.http.services import Parts

EDGES: list[Any] = [0, 1, -1, 2**31, 2**63 - 1, -(2**63), 0.5, -0.0, 1e308, 5e-324, True, False, None, "", "a", "true"]
EMPTY: list[Any] = [[], {}, [None], [[]], {"a": None}]
KEYS = ["role", "content", "type", "text", "function", "name", "id", "schema", "$ref"]
values = st.recursive(
    st.sampled_from([*EDGES, *EMPTY]) | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
roles = st.sampled_from(["system", "developer", "user", "assistant", "tool", "wizard"])
messages = st.lists(
    st.fixed_dictionaries({}, optional={"role": roles | values, "content": values, "tool_calls": values, "tool_call_id": values}),
    max_size=4,
)
FIELDS = sorted({*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields, *REFUSED_FIELDS, "brand_new"})


@pytest.mark.parametrize(
    ("path", "base"), [("/v1/chat/completions", chat_body()), ("/v1/completions", {"model": "fake-chat", "prompt": "a"})]
)
def test_any_fields_end_in_an_answer_or_a_typed_refusal(app: FastAPI, path: str, base: dict[str, Any]) -> None:
    app.state.services = Parts().services()

    @settings(max_examples=150, deadline=None)
    @given(changes=st.dictionaries(st.sampled_from(FIELDS), values, max_size=4), talk=messages | st.none())
    def check(changes: dict[str, Any], talk: Any) -> None:
        body = base | changes | ({"messages": talk} if talk is not None else {})
        response = asyncio.run(post(app, path, body))
        if response.status_code != 200:
            assert response.status_code in {400, 404}, response.text
            assert list(response.json()["error"]) == ["message", "type", "param", "code"]

    check()


async def post(app: FastAPI, path: str, body: dict[str, Any]) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post(path, json=body)
