"""What happens around every websocket, message by message as a server passes them."""

import json
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.routing import WebSocketRoute

from aihub.core.errors import InvalidRequestError
from aihub.http.app import create_app
from tests.unit.http.services import Parts

HOST = (b"host", b"localhost")
DENIAL = {"websocket.http.response": {}}


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def extended_app(parts: Parts) -> FastAPI:
    """The whole application, and websockets nobody thought of yet."""
    app = create_app(parts.services())
    router = APIRouter()

    @router.websocket("/added-later")
    async def added(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(1000)

    @router.websocket("/refuses-early")
    async def refuses_early(websocket: WebSocket) -> None:
        raise InvalidRequestError("Not so.")

    @router.websocket("/fails-early")
    async def fails_early(websocket: WebSocket) -> None:
        raise KeyError("secret")

    @router.websocket("/fails-late")
    async def fails_late(websocket: WebSocket) -> None:
        await websocket.accept()
        raise KeyError("secret")

    app.include_router(router)
    return app


async def connect(app: FastAPI, path: str, *headers: tuple[bytes, bytes], extensions: Any = None) -> list[dict[str, Any]]:
    """Return what the application sends to a client that connects and then says nothing."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [HOST, *headers],
        "subprotocols": [],
        "extensions": DENIAL if extensions is None else extensions,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if not sent else {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await app(scope, receive, send)
    return sent


def error_of(sent: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
    """Return status and error object of a refused handshake."""
    start, *bodies = sent
    assert start["type"] == "websocket.http.response.start"
    assert b"x-request-id" in dict(start["headers"])
    return start["status"], json.loads(b"".join(body["body"] for body in bodies))["error"]


@pytest.mark.parametrize("header", [(b"origin", b"http://evil.example"), (b"origin", b"null"), (b"sec-fetch-site", b"same-site")])
async def test_no_websocket_is_open_to_pages_of_other_sites(extended_app: FastAPI, header: tuple[bytes, bytes]) -> None:
    paths = [route.path for route in extended_app.routes if isinstance(route, WebSocketRoute)]
    assert {"/v1/audio/stream", "/added-later"} <= {*paths}
    for path in paths:
        status, error = error_of(await connect(extended_app, path, header))
        assert (status, error["code"]) == (403, "foreign_page")


@pytest.mark.parametrize("header", [(b"origin", b"http://localhost"), (b"sec-fetch-site", b"same-origin"), (b"x-a", b"b")])
async def test_programs_and_the_hubs_own_pages_may_connect(extended_app: FastAPI, header: tuple[bytes, bytes]) -> None:
    accepted, closed = await connect(extended_app, "/added-later", header)
    assert (accepted["type"], closed["code"]) == ("websocket.accept", 1000)


async def test_second_host_is_refused(extended_app: FastAPI) -> None:
    status, error = error_of(await connect(extended_app, "/added-later", (b"host", b"evil.example")))
    assert (status, error["code"]) == (400, "invalid_host")


async def test_large_head_is_refused(extended_app: FastAPI) -> None:
    status, error = error_of(await connect(extended_app, "/added-later", (b"cookie", b"x" * 70_000)))
    assert (status, error["code"]) == (431, "headers_too_large")


async def test_unknown_path_is_404(extended_app: FastAPI) -> None:
    status, error = error_of(await connect(extended_app, "/v1/audio/streams"))
    assert (status, error["code"]) == (404, "unknown_url")


async def test_server_without_bodies_in_refusals_is_told_to_close(extended_app: FastAPI, parts: Parts) -> None:
    sent = await connect(extended_app, "/added-later", (b"origin", b"null"), extensions={})
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert 'route="unmatched",status="403"' in exposition(parts)


async def test_refusal_before_the_connection_stands_is_an_http_answer(extended_app: FastAPI) -> None:
    status, error = error_of(await connect(extended_app, "/refuses-early"))
    assert (status, error["message"]) == (400, "Not so.")


async def test_bug_before_the_connection_stands_is_a_stable_500(extended_app: FastAPI) -> None:
    status, error = error_of(await connect(extended_app, "/fails-early"))
    assert (status, error["code"]) == (500, "internal_error")
    assert "secret" not in error["message"]


async def test_bug_in_the_middle_is_an_error_and_a_close_code(extended_app: FastAPI, parts: Parts) -> None:
    accepted, told, closed = await connect(extended_app, "/fails-late", (b"x-request-id", b"req_mine"))
    assert dict(accepted["headers"])[b"x-request-id"] == b"req_mine"
    error = json.loads(told["text"])["error"]
    assert error["code"] == "internal_error"
    assert "req_mine" in error["message"]
    assert (closed["code"], closed["reason"]) == (1011, "internal_error")
    assert 'method="WEBSOCKET",route="/fails-late",status="1011"' in exposition(parts)
    assert "aihub_http_requests_in_flight 0.0" in exposition(parts)


def exposition(parts: Parts) -> str:
    from prometheus_client import generate_latest

    return generate_latest(parts.metrics.registry).decode()
