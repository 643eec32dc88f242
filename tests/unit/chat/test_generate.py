import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from aihub.chat import routes as generate
from aihub.core.errors import ModelUnavailableError
from aihub.http.errors import install_error_handlers
from aihub.http.middleware import RequestContext
from tests.unit.conftest import KEY_HEADERS, assert_refused
from tests.unit.http.services import Parts


@pytest.fixture
async def http(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    """Only this route, so that the test stands for itself."""
    app = FastAPI()
    app.state.services = parts.services()
    install_error_handlers(app)
    app.add_middleware(RequestContext)
    app.include_router(generate.router)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=KEY_HEADERS) as client:
        yield client


def body(**changes: Any) -> dict[str, Any]:
    return {"prompt": "Xin chào", "model": "fake-chat"} | changes


async def test_prompt_is_answered_in_the_old_shape(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/generate", json=body(max_tokens=50))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer | {"usage": None} == {
        "success": True,
        "text": "You said: Xin chào",
        "model": "fake-chat",
        "finish_reason": "stop",
        "usage": None,
    }
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("sent", "temperature", "top_p"),
    [
        ({"temperature": 0.7, "top_p": 0.9}, 0.7, 0.9),
        ({"temperature": 0.7, "top_p": 0.9, "do_sample": False}, 0.0, None),
        ({"do_sample": False}, 0.0, None),
        ({}, None, None),
        ({"temperature": 1}, 1.0, None),
    ],
)
async def test_sampling_reaches_the_engine(
    http: httpx.AsyncClient, parts: Parts, sent: dict[str, Any], temperature: float | None, top_p: float | None
) -> None:
    assert (await http.post("/v1/generate", json=body(**sent))).status_code == 200
    engine_body = parts.engine.bodies[-1]
    assert (engine_body.get("temperature"), engine_body.get("top_p")) == (temperature, top_p)
    assert engine_body["max_completion_tokens"] == 256


async def test_stream_is_chunks_usage_and_done(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/generate", json=body(stream=True))
    *events, last = response.text.removesuffix("\n\n").split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]) == "You said: Xin chào"
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    assert last == "data: [DONE]"


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["một", "hai"]}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"do_sample": "false"}, "do_sample"),
        ({"stream": "true"}, "stream"),
        ({"model": ""}, "model"),
        ({"api_base": "http://evil.example"}, "api_base"),
    ],
)
async def test_bad_field_is_refused_by_name_and_the_next_request_works(
    http: httpx.AsyncClient, sent: dict[str, Any], param: str
) -> None:
    assert_refused(await http.post("/v1/generate", json=body(**sent)), param=param)
    assert (await http.post("/v1/generate", json=body())).status_code == 200


async def test_model_defaults_to_the_hubs_choice(http: httpx.AsyncClient) -> None:
    error = assert_refused(await http.post("/v1/generate", json={"prompt": "Xin chào"}), 404)
    assert "'auto'" in error["message"]


async def test_unavailable_model_is_503_with_retry_after(http: httpx.AsyncClient, parts: Parts) -> None:
    parts.engine.error = ModelUnavailableError("loading")
    response = await http.post("/v1/generate", json=body())
    assert_refused(response, 503)
    assert response.headers["retry-after"] == "10"
