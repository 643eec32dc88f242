import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.fake import FakeAuthenticator
from aihub.core.principal import Principal
from aihub.core.settings import Settings
from aihub.documents.parsing.parser import DocumentParser
from aihub.http.app import create_app
from tests.isolation import isolation
from tests.unit.documents.ingest_parts import started_parser
from tests.unit.documents.routes.document_hub import Clients, DocumentHub, official_clients
from tests.unit.http.services import Parts


@pytest.fixture(autouse=True)
def isolated() -> Iterator[list[str]]:
    """No Ray, no network, no blocked event loop; gives what was done against that, for the tests of these rules alone."""
    with isolation() as violations:
        yield violations


KEY = ApiKey.generate()
KEY_HEADERS = {"Authorization": f"Bearer {KEY.text}"}
KEYED = Principal(user_id="user_of_tests", key_id=KEY.key_id)


@pytest.fixture
def parts() -> Parts:
    """With keys on, so that whatever is sent meets a hub as teams run it; open hubs have tests of their own."""
    return Parts(authenticator=FakeAuthenticator({KEY.text: KEYED}))


@pytest.fixture(scope="session")
def app() -> FastAPI:
    """One application for all tests; its services are exchanged before each."""
    return create_app(Parts().services())


@pytest.fixture
async def client(app: FastAPI, parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application in this process; bugs come as 500 like over a real server."""
    app.state.services = parts.services()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=KEY_HEADERS) as http:
        yield http


def chat_body(**changes: Any) -> dict[str, Any]:
    return {"model": "fake-chat", "messages": [{"role": "user", "content": "Xin chào"}]} | changes


async def assert_good_chat(client: httpx.AsyncClient) -> None:
    """The request after the bad one is answered."""
    answer = await client.post("/v1/chat/completions", json=chat_body())
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "You said: Xin chào"


def assert_refused(
    response: httpx.Response, status: int = 400, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The response is OpenAI's error object with this status; returns the inner object."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    error: dict[str, Any] = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    assert error["code"]
    assert response.headers["x-request-id"]
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return error


class LiveServer:
    """The application on a real socket, in a thread of this process."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(create_app(parts.services()), log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    def send_raw(self, data: bytes, *, wait_s: float = 5.0, half_close: bool = False) -> bytes:
        """Send bytes as they are and return everything that comes back until the server closes or `wait_s` is over."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as raw:
            raw.sendall(data)
            if half_close:
                raw.shutdown(socket.SHUT_WR)
            received = b""
            try:
                while piece := raw.recv(65536):
                    received += piece
            except (TimeoutError, ConnectionResetError):
                pass
            return received


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    live = LiveServer(Parts(settings=Settings(body_timeout_s=0.5)))
    live.start()
    yield live
    live.stop()


@pytest.fixture(scope="module")
def parser() -> Iterator[DocumentParser]:
    with started_parser() as parser:
        yield parser


@pytest.fixture
async def clients(hub: DocumentHub) -> AsyncIterator[Clients]:
    async with official_clients(hub.app) as both:
        yield both
