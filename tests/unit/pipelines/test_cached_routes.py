"""The cache as clients see it over HTTP."""

import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from aihub.cache.fake import FakeAnswerStore
from aihub.core.metrics import Metrics
from pipelines.cached_chat import CachedChat
from tests.unit.conftest import KEY_HEADERS, assert_refused, chat_body
from tests.unit.http.services import Parts
from tests.unit.pipelines.rag_parts import hub

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cache.md"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def client(app: FastAPI, parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    chat = hub(engine=parts.engine).chat
    cached = CachedChat(chat, chat, FakeAnswerStore(), ttl_s=60.0, metrics=parts.metrics)
    app.state.services = replace(parts.services(), chat=cached)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=KEY_HEADERS) as http:
        yield http


async def post(
    client: httpx.AsyncClient, path: str = CHAT, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    answer = await client.post(path, json=chat_body(**fields), headers=headers or {})
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}])
@pytest.mark.parametrize("path", [CHAT, "/api/v1/chat/completions"])
async def test_a_hit_has_the_bytes_of_the_first_answer(client: httpx.AsyncClient, fields: dict[str, Any], path: str) -> None:
    answers = [await post(client, path, temperature=0, **fields) for _ in range(3)]
    assert [answer.headers["x-aihub-cache"] for answer in answers] == ["miss", "hit", "hit"]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert len({answer.headers["content-type"] for answer in answers}) == 1


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "hit"),
        ({"Cache-Control": "no-cache"}, "miss"),
        ({"Cache-Control": "no-store"}, "off"),
        ({"Cache-Control": "max-age=0, NO-STORE"}, "off"),
        ({"Cache-Control": "nonsense;"}, "hit"),
    ],
)
async def test_the_cache_control_header_is_honoured_for_its_own_request(
    client: httpx.AsyncClient, headers: dict[str, str], expected: str
) -> None:
    await post(client, temperature=0)
    assert (await post(client, headers=headers, temperature=0)).headers["x-aihub-cache"] == expected
    assert (await post(client, temperature=0)).headers["x-aihub-cache"] == "hit"


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ("yes", "cache"),
        (1, "cache"),
        ({"ttl_s": 0}, "cache.ttl_s"),
        ({"ttl_s": 604_801}, "cache.ttl_s"),
        ({"ttl_s": "5"}, "cache.ttl_s"),
        ({"ttl": 5}, "cache.ttl"),
        ([], "cache"),
    ],
)
async def test_a_wrong_wish_is_refused(client: httpx.AsyncClient, value: Any, param: str) -> None:
    assert_refused(await client.post(CHAT, json=chat_body(cache=value)), param=param)


async def test_generate_and_completions_are_cached_as_well(client: httpx.AsyncClient) -> None:
    bodies = {
        "/v1/generate": {"model": "fake-chat", "prompt": "Xin chào", "do_sample": False},
        "/v1/completions": {"model": "fake-chat", "prompt": "Xin chào", "temperature": 0},
    }
    for path, body in bodies.items():
        answers = [await client.post(path, json=body) for _ in range(2)]
        assert [answer.headers["x-aihub-cache"] for answer in answers] == ["miss", "hit"]
        assert answers[0].content == answers[1].content


async def test_the_example_of_the_documentation_is_a_miss_and_then_a_hit(client: httpx.AsyncClient) -> None:
    [example] = re.findall(r"-d '(\{.*?\})' \|", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    body = json.loads(example) | {"model": "fake-chat"}
    assert [(await client.post(CHAT, json=body)).headers["x-aihub-cache"] for _ in range(2)] == ["miss", "hit"]


async def test_lookups_are_counted(client: httpx.AsyncClient, parts: Parts) -> None:
    for _ in range(3):
        await post(client, temperature=0)
    assert lookups(parts.metrics, "miss") == 1
    assert lookups(parts.metrics, "hit") == 2


def lookups(metrics: Metrics, result: str) -> float | None:
    return metrics.registry.get_sample_value("aihub_cache_lookups_total", {"cache": "answers", "result": result})
