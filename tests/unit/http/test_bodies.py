"""The list "All JSON": each bad body gets a typed 4xx at once, and the next good request is answered."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from aihub.core.settings import Settings
from tests.unit.conftest import assert_good_chat, assert_refused, chat_body
from tests.unit.http.services import Parts

PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
GOOD = json.dumps(chat_body()).encode()


def with_field(raw: bytes) -> bytes:
    return GOOD[:-1] + b", " + raw + b"}"


BAD_BODIES: dict[str, tuple[bytes, int, str | None]] = {
    "empty": (b"", 400, "empty"),
    "null": (b"null", 400, "JSON object"),
    "array": (b"[]", 400, "JSON object"),
    "string": (b'"hello"', 400, "JSON object"),
    "number": (b"1", 400, "JSON object"),
    "truncated": (GOOD[:-5], 400, "not valid JSON"),
    "not JSON": (b"model=fake-chat", 400, "not valid JSON"),
    "40 MB": (with_field(b'"x": "' + b"a" * 40_000_000 + b'"'), 413, "larger than"),
    "depth 10,000": (with_field(b'"x": ' + b"[" * 10_000 + b"]" * 10_000), 400, "nested deeper"),
    "duplicate keys": (with_field(b'"model": "other"'), 400, "'model' appears twice"),
    "NaN": (with_field(b'"temperature": NaN'), 400, "NaN"),
    "Infinity": (with_field(b'"temperature": Infinity'), 400, "Infinity"),
    "1e400": (with_field(b'"temperature": 1e400'), 400, "out of range"),
    "int over 2^63": (with_field(b'"seed": 9223372036854775808'), 400, "out of range"),
    "lone surrogate": (with_field(rb'"user": "\ud800"'), 400, "surrogate"),
    "NUL": (with_field(rb'"user": "\u0000"'), 400, "NUL"),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, 400, "byte order mark"),
    "UTF-16": (GOOD.decode().encode("utf-16"), 400, "UTF-8"),
    "Latin-1": ('{"model": "é"}'.encode("latin-1"), 400, "UTF-8"),
    "wrong case": (GOOD.replace(b'"model"', b'"Model"'), 400, "'model' is required"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_body_is_refused_then_a_good_one_is_answered(client: httpx.AsyncClient, name: str) -> None:
    body, status, reason = BAD_BODIES[name]
    response = await client.post(PATH, content=body, headers=JSON)
    error = assert_refused(response, status)
    assert reason in error["message"]
    assert error["type"] == "invalid_request_error"
    await assert_good_chat(client)


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_bad_body_is_refused_within_a_tenth_of_a_second(client: httpx.AsyncClient, name: str) -> None:
    body, _, _ = BAD_BODIES[name]
    best_s = float("inf")
    for _ in range(3):
        started_s = time.perf_counter()
        await client.post(PATH, content=body, headers=JSON)
        best_s = min(best_s, time.perf_counter() - started_s)
    assert best_s < 0.1


BAD_HEADERS: dict[str, tuple[dict[str, str], int]] = {
    "no content type": ({}, 415),
    "form": ({"content-type": "application/x-www-form-urlencoded"}, 415),
    "text": ({"content-type": "text/plain"}, 415),
    "multipart": ({"content-type": "multipart/form-data; boundary=x"}, 415),
    "charset latin-1": ({"content-type": "application/json; charset=iso-8859-1"}, 415),
    "charset utf-16": ({"content-type": 'application/json; charset="UTF-16"'}, 415),
    "encoding br": (JSON | {"content-encoding": "br"}, 415),
    "content length of letters": (JSON | {"content-length": "abc"}, 400),
    "negative content length": (JSON | {"content-length": "-5"}, 400),
    "content length over the limit": (JSON | {"content-length": str(10**12)}, 413),
    "content length of 30 digits": (JSON | {"content-length": "9" * 30}, 400),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
async def test_bad_header_is_refused_then_a_good_request_is_answered(client: httpx.AsyncClient, name: str) -> None:
    headers, status = BAD_HEADERS[name]
    response = await client.post(PATH, content=GOOD, headers=headers)
    assert_refused(response, status)
    await assert_good_chat(client)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"', "application/x+json"],
)
async def test_json_content_types_are_read(client: httpx.AsyncClient, content_type: str) -> None:
    response = await client.post(PATH, content=GOOD, headers={"content-type": content_type})
    assert response.status_code == 200


async def test_gzip_body_is_refused_as_unsupported_encoding(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, content=gzip.compress(GOOD), headers=JSON | {"content-encoding": "gzip"})
    error = assert_refused(response, 415, code="unsupported_media_type")
    assert "gzip" in error["message"]
    await assert_good_chat(client)


@pytest.mark.parametrize(("path", "limit_mib"), [(PATH, 32), ("/v1/completions", 4)])
async def test_chunked_body_over_the_limit_is_refused_while_it_arrives(
    client: httpx.AsyncClient, path: str, limit_mib: int
) -> None:
    sent = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 2**20

    response = await client.post(path, content=pieces(), headers=JSON)
    assert_refused(response, 413)
    assert sent == limit_mib + 1
    await assert_good_chat(client)


class TestSlowBodies:
    @pytest.fixture
    def parts(self) -> Parts:
        return Parts(settings=Settings(body_timeout_s=0.05))

    async def test_stalled_body_is_refused_after_the_timeout(self, client: httpx.AsyncClient) -> None:
        status, error = await post_slowly(client, pause_s=30.0)
        assert status == 408
        assert error["code"] == "request_timeout"
        await assert_good_chat(client)

    async def test_body_one_byte_at_a_time_is_refused(self, client: httpx.AsyncClient) -> None:
        status, _ = await post_slowly(client, pause_s=0.02)
        assert status == 408
        await assert_good_chat(client)


async def post_slowly(client: httpx.AsyncClient, *, pause_s: float) -> tuple[int, dict[str, Any]]:
    """Post a body that comes one byte per `pause_s`, straight to the application."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    sent: list[dict[str, Any]] = []
    left = list(GOOD)

    async def receive() -> dict[str, Any]:
        if len(left) < len(GOOD):
            await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": bytes([left.pop(0)]), "more_body": bool(left)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    await asyncio.wait_for(transport.app(scope, receive, send), 5)
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]


async def test_unknown_fields_are_ignored(client: httpx.AsyncClient) -> None:
    body = chat_body(service_tier="auto", verbosity="low", prompt_cache_key="k", safety_identifier="s", brand_new={"x": [1]})
    response = await client.post(PATH, json=body)
    assert response.status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_wrong_method_is_405_and_names_the_right_one(client: httpx.AsyncClient, method: str) -> None:
    response = await client.request(method, PATH)
    error = assert_refused(response, 405, code="method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert "POST" in error["message"]
    await assert_good_chat(client)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/files", "GET, POST"),
        ("/api/v1/chat/conversations/conv_1", "DELETE, GET, PATCH"),
        ("/v1/vector_stores/vs_1/files/file_1", "DELETE, GET, POST"),
    ],
)
async def test_wrong_method_of_a_path_with_several_routes_names_the_methods_of_all(
    client: httpx.AsyncClient, path: str, methods: str
) -> None:
    response = await client.put(path)
    assert f"use {methods}." in assert_refused(response, 405, code="method_not_allowed")["message"]
    assert response.headers["allow"] == methods


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/models/", "/health/", "/v1/nothing", "/", "/v1/chat/../chat"])
async def test_unknown_path_or_trailing_slash_is_404(client: httpx.AsyncClient, path: str) -> None:
    assert_refused(await client.request("POST" if "chat" in path else "GET", path), 404)
    await assert_good_chat(client)


async def test_headers_over_64_kib_are_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=chat_body(), headers={"x-bomb": "a" * 100_000})
    assert_refused(response, 431, code="headers_too_large")
    await assert_good_chat(client)
