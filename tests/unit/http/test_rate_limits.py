"""Limits of keys at the edge: counted right after the key, told in headers, 429 in OpenAI's shape."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import cast

import httpx
import openai
import pytest
from fastapi import FastAPI

from aihub.accounts.fake import FakeAuthenticator
from aihub.accounts.rate_limits import RateLimits
from aihub.core.metrics import RequestMetrics
from aihub.core.principal import KeyLimits, Principal
from aihub.core.settings import Settings
from aihub.http.app import create_app, create_prediction_app
from aihub.http.services import PredictionServices
from aihub.recsys.service import PredictionService
from pipelines.limited_speech import LimitedSpeech
from tests.unit.accounts.limit_parts import limiter
from tests.unit.conftest import assert_refused, chat_body
from tests.unit.http.keys import ADMIN_KEY, USER_KEY, bearer
from tests.unit.http.services import Parts
from tests.unit.http.test_websockets import connect, error_of


def with_limits(**limits: int) -> FakeAuthenticator:
    """A hub with a key that has limits, and one that has none."""
    limited = Principal(role="user", user_id="user_b", key_id="key_user0000", limits=KeyLimits(**limits))
    return FakeAuthenticator({ADMIN_KEY: Principal(key_id="key_admin000"), USER_KEY: limited})


def app_of(parts: Parts, limits: RateLimits) -> FastAPI:
    services = parts.services()
    return create_app(replace(services, limiter=limits, speech=LimitedSpeech(services.speech, limits)))


@asynccontextmanager
async def client_of(app: FastAPI, key: str | None = USER_KEY) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = bearer(key) if key is not None else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as http:
        yield http


async def test_every_answer_tells_what_is_left_and_the_first_beyond_it_is_429() -> None:
    parts = Parts(authenticator=with_limits(requests_per_minute=3, tokens_per_minute=500))
    async with limiter(None) as limits, client_of(app_of(parts, limits)) as http:
        for left, path in ((2, "/v1/models"), (1, "/nowhere"), (0, "/v1/models")):
            answer = await http.get(path)
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert answer.headers["x-ratelimit-reset-requests"] == "1m0s"
            assert answer.headers["x-ratelimit-limit-tokens"] == "500"
            assert answer.headers["x-ratelimit-remaining-tokens"] == "500"
            assert answer.headers["x-ratelimit-reset-tokens"] == "0s"
        refused = await http.post("/v1/chat/completions", json=chat_body())
        error = assert_refused(refused, 429, code="rate_limit_exceeded")
        assert error["type"] == "rate_limit_error"
        assert 58 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert refused.headers["connection"] == "close"  # its body was not read
        assert not parts.engine.bodies
        assert parts.usage.records[-1].error_code == "rate_limit_exceeded"


async def test_health_and_requests_without_a_good_key_are_not_counted() -> None:
    parts = Parts(authenticator=with_limits(requests_per_minute=1))
    async with limiter(None) as limits:
        app = app_of(parts, limits)
        async with client_of(app, key=None) as http:
            for _ in range(3):
                assert (await http.get("/health/live")).status_code == 200
                assert (await http.get("/v1/models")).status_code == 401
        async with client_of(app) as http:
            for _ in range(3):
                assert (await http.get("/metrics")).status_code == 403
            assert (await http.get("/v1/models")).status_code == 200
            assert (await http.get("/v1/models")).status_code == 429
            live = await http.get("/health/live")
            assert live.status_code == 200
            assert "x-ratelimit-limit-requests" not in live.headers
        async with client_of(app, key=ADMIN_KEY) as http:
            answer = await http.get("/v1/models")
            assert answer.status_code == 200
            assert "x-ratelimit-limit-requests" not in answer.headers


async def test_predictions_served_alone_are_counted_too() -> None:
    async with limiter(None) as limits:
        services = PredictionServices(
            Settings(), with_limits(requests_per_minute=1), cast(PredictionService, None), RequestMetrics(), limiter=limits
        )
        async with client_of(create_prediction_app(services)) as http:
            assert (await http.post("/predict/trending", json={})).status_code == 400
            assert_refused(await http.post("/predict/trending", json={}), 429, code="rate_limit_exceeded")


async def test_embeddings_cost_their_tokens() -> None:
    parts = Parts(authenticator=with_limits(tokens_per_minute=100))
    async with limiter(None) as limits, client_of(app_of(parts, limits)) as http:
        body = {"model": "fake-embedder", "input": "Xin chào"}
        answer = await http.post("/v1/embeddings", json=body)
        assert answer.json()["usage"]["total_tokens"] == 8
        assert (await http.get("/v1/models")).headers["x-ratelimit-remaining-tokens"] == "92"
        refused = await http.post("/v1/embeddings", json=body | {"input": ["a" * 290]})
        assert_refused(refused, 429, code="rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) > 1
        too_large = await http.post("/v1/embeddings", json=body | {"input": ["a" * 1000]})
        assert_refused(too_large, 429, code="rate_limit_exceeded")
        assert "retry-after" not in too_large.headers
        assert too_large.headers["x-should-retry"] == "false"
        assert (await http.post("/v1/embeddings", json=body | {"model": "unknown"})).status_code == 404
        assert (await http.get("/v1/models")).headers["x-ratelimit-remaining-tokens"] == "92"


async def test_a_websocket_is_a_request_and_is_refused_before_it_stands() -> None:
    parts = Parts(authenticator=with_limits(requests_per_minute=1))
    async with limiter(None) as limits:
        app = app_of(parts, limits)
        async with client_of(app) as http:
            await http.get("/v1/models")
        authorization = (b"authorization", bearer(USER_KEY)["Authorization"].encode())
        status, error = error_of(await connect(app, "/v1/audio/stream", authorization))
        assert (status, error["code"]) == (429, "rate_limit_exceeded")


async def test_openais_client_takes_the_refusal_for_a_rate_limit() -> None:
    parts = Parts(authenticator=with_limits(requests_per_minute=1))
    async with limiter(None) as limits:
        transport = httpx.ASGITransport(app_of(parts, limits))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            client = openai.AsyncOpenAI(api_key=USER_KEY, base_url="http://localhost/v1", http_client=http, max_retries=0)
            await client.models.list()
            with pytest.raises(openai.RateLimitError) as refused:
                await client.models.list()
            assert refused.value.code == "rate_limit_exceeded"
