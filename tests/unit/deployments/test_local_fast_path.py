"""The local fast path over real sockets: a server as Serve's proxy is, and applications behind Unix sockets."""

import asyncio
import importlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from yarl import URL

from aihub.cli.preflight import SERVE_ENVIRONMENT
from aihub.http.local_server import LocalServer
from deployments.local_fast_path import LocalFastPath, ReplicaSocket


async def read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def answer(send: Send, body: bytes, *, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers or []})
    await send({"type": "http.response.body", "body": body})


class Replica:
    """An application that remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name.encode()
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if scope["path"] == "/stream":
            await self._stream(receive, send)
        elif scope["path"] == "/refuse":
            await answer(send, b"too large", status=413, headers=[(b"connection", b"close")])
        elif scope["path"] == "/break":
            raise RuntimeError("broken")
        else:
            self.bodies.append(await read_body(receive))
            headers = [(b"content-type", b"text/x"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
            await answer(send, self.name, status=201, headers=headers)

    async def _stream(self, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        leaving = asyncio.create_task(self._until_gone(receive))
        await self.go_on.wait()
        leaving.cancel()
        await send({"type": "http.response.body", "body": b"second"})

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone.set()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket, which pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="way-") as path:
        yield Path(path)


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Run an application as Serve's proxy runs: uvicorn on a TCP port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn sets no event
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def _closing(socket: ReplicaSocket) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await socket.close()


class Front:
    """A proxy with a hub and a recommender behind sockets that may be there or not."""

    def __init__(self, folder: Path) -> None:
        self.serve, self.hub, self.recsys = Replica("serve"), Replica("hub"), Replica("recsys")
        paths = {name: folder / f"{name}.sock" for name in ("hub", "recsys")}
        self.servers = {"hub": LocalServer(self.hub, paths["hub"]), "recsys": LocalServer(self.recsys, paths["recsys"])}
        self.ways = {name: ReplicaSocket(path) for name, path in paths.items()}
        self.app = LocalFastPath(self.serve, [("/predict/", self.ways["recsys"]), ("/", self.ways["hub"])])

    async def close(self) -> None:
        await asyncio.gather(*(way.close() for way in self.ways.values()))
        await asyncio.gather(*(server.close(grace_s=0.5) for server in self.servers.values()))


@pytest.fixture
async def front(folder: Path) -> AsyncIterator[Front]:
    made = Front(folder)
    yield made
    await made.close()


@pytest.fixture
async def url(front: Front) -> AsyncIterator[str]:
    async with serving(front.app) as address:
        yield address


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


def test_start_of_the_hub_names_these_middlewares() -> None:
    module, _, name = SERVE_ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


async def test_request_and_answer_pass_unchanged(front: Front, url: str, client: aiohttp.ClientSession) -> None:
    await front.servers["hub"].start()
    headers = [("X-A", "1"), ("X-A", "2"), ("Host", "shop.example"), ("Content-Type", "application/json"), ("X-B", "a, b")]
    target = URL(f"{url}/v1/a%2Fb/../%C3%A1?q=%20x&q=%2B", encoded=True)
    async with client.put(target, data=b'{"a": 1}', headers=headers) as response:
        assert (response.status, await response.read()) == (201, b"hub")
        assert response.headers.getall("set-cookie") == ["a=1", "b=2"]
        assert response.headers["content-type"] == "text/x"
        assert response.headers.getall("server") == ["uvicorn"]
    scope = front.hub.scopes[0]
    assert (scope["method"], scope["raw_path"], scope["query_string"]) == ("PUT", b"/v1/a%2Fb/../%C3%A1", b"q=%20x&q=%2B")
    expected = [(b"host", b"shop.example"), (b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"a, b"), (b"content-length", b"8")]
    assert [pair for pair in scope["headers"] if pair[0] in dict(expected)] == expected
    assert front.hub.bodies == [b'{"a": 1}']
    assert front.serve.scopes == []


async def test_without_a_socket_requests_go_serves_way_with_their_bodies(
    front: Front, url: str, client: aiohttp.ClientSession
) -> None:
    for path in ("/v1/models", "/predict/x"):
        async with client.post(url + path, data=b"body") as response:
            assert await response.read() == b"serve"
        async with client.get(url + path) as response:
            assert await response.read() == b"serve"
    assert front.serve.bodies == [b"body", b"", b"body", b""]


async def test_way_opens_when_the_replica_has_started_and_closes_when_it_ends(
    front: Front, url: str, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.local_fast_path._PAUSE_S", 0.0)
    names = []
    for step in ("none", "start", "close"):
        if step != "none":
            await getattr(front.servers["hub"], step)()
        async with client.post(url, data=b"x") as response:
            names.append(await response.read())
    assert names == [b"serve", b"hub", b"serve"]


async def test_predictions_go_to_the_recommender_and_through_the_hub_when_it_is_away(
    front: Front, url: str, client: aiohttp.ClientSession
) -> None:
    await front.servers["hub"].start()
    names = []
    for _ in range(2):
        for path in ("/predict/trending", "/predictions"):
            async with client.post(url + path, data=b"x") as response:
                names.append(await response.read())
        await asyncio.sleep(0.25)
        await front.servers["recsys"].start()
    assert names == [b"hub", b"hub", b"recsys", b"hub"]


async def test_serves_own_paths_go_serves_way(front: Front, url: str, client: aiohttp.ClientSession) -> None:
    await front.servers["hub"].start()
    async with client.get(f"{url}/-/healthz") as response:
        assert await response.read() == b"serve"


@pytest.mark.parametrize("path", ["/-/routes", "/-/", "/-/healthz/", "/-/anything"])
async def test_serves_own_paths_but_its_health_tell_nobody_anything(url: str, client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(url + path) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "unknown_url"


async def test_odd_requests_go_serves_way(front: Front) -> None:
    await front.servers["hub"].start()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        pass

    odd: list[dict[str, Any]] = [{"raw_path": raw_path} for raw_path in (b"*", b"/\xff", b"/a b", b"")]
    host = (b"host", b"localhost")
    odd += [{"query_string": b"\xc3"}, {"headers": [host, (b"x-name", "ä".encode())]}]
    # The hub is to see what is wrong with these; aiohttp would send one Host header for both.
    odd += [{"headers": []}, {"headers": [host, (b"host", b"evil.example")]}]
    plain = {"type": "http", "path": "/a", "raw_path": b"/a", "query_string": b"", "headers": [host], "method": "GET"}
    for change in odd:
        await front.app(plain | change, receive, send)
    assert len(front.serve.scopes) == len(odd)
    assert front.hub.scopes == []


async def test_pieces_arrive_as_they_are_made(front: Front, url: str, client: aiohttp.ClientSession) -> None:
    await front.servers["hub"].start()
    async with client.post(f"{url}/stream", data=b"x") as response:
        assert await response.content.readany() == b"first"
        front.hub.go_on.set()
        assert await response.content.readany() == b"second"


@pytest.mark.parametrize("body", [None, b"x"])
async def test_replica_learns_that_the_client_left(
    front: Front, url: str, client: aiohttp.ClientSession, body: bytes | None
) -> None:
    await front.servers["hub"].start()
    response = await client.post(f"{url}/stream", data=body)
    assert await response.content.readany() == b"first"
    response.close()
    await asyncio.wait_for(front.hub.gone.wait(), 2)
    front.hub.go_on.set()


async def test_small_body_in_pieces_goes_the_local_fast_path_and_a_large_or_slow_one_serves(
    front: Front, url: str, client: aiohttp.ClientSession
) -> None:
    await front.servers["hub"].start()

    async def pieces(size: int, wait_s: float) -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * size
            await asyncio.sleep(wait_s)

    for data in (pieces(100, 0.001), pieces(30_000, 0.001), pieces(100, 0.1), b"x" * 3_000_000):
        async with client.post(url, data=data) as response:
            assert response.status == 201
    assert [len(body) for body in front.hub.bodies] == [300]
    assert [len(body) for body in front.serve.bodies] == [90_000, 300, 3_000_000]


async def test_refusal_without_reading_the_body_arrives(front: Front, url: str, client: aiohttp.ClientSession) -> None:
    await front.servers["hub"].start()
    for _ in range(20):
        async with client.post(f"{url}/refuse", data=b"x" * 60_000) as response:
            assert (response.status, response.headers["connection"]) == (413, "close")


async def test_replica_that_breaks_off_gives_503_with_retry_after(folder: Path, client: aiohttp.ClientSession) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.close()

    server = await asyncio.start_unix_server(hang_up, folder / "hub.sock")
    way = ReplicaSocket(folder / "hub.sock")
    async with server, serving(LocalFastPath(Replica("serve"), [("/", way)])) as url, _closing(way):
        async with client.post(url, data=b"x") as response:
            content: Any = await response.json()
            assert (response.status, response.headers["retry-after"]) == (503, "5")
    assert content["error"]["message"].startswith("The hub is being replaced.")


async def test_answer_that_breaks_off_in_the_middle_is_seen_to_be_broken(folder: Path, client: aiohttp.ClientSession) -> None:
    async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(half_an_answer, folder / "hub.sock")
    way = ReplicaSocket(folder / "hub.sock")
    async with server, serving(LocalFastPath(Replica("serve"), [("/", way)])) as url, _closing(way):
        with pytest.raises(aiohttp.ClientPayloadError):
            async with client.post(url, data=b"x") as response:
                await response.read()


async def test_more_requests_than_a_way_takes_go_serves_way(
    front: Front, url: str, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.local_fast_path._MOST", 1)
    await front.servers["hub"].start()
    async with client.post(f"{url}/stream", data=b"x") as busy:
        assert await busy.content.readany() == b"first"
        async with client.get(url) as response:
            assert await response.read() == b"serve"
        front.hub.go_on.set()
        assert await busy.read() == b"second"
    async with client.get(url) as response:
        assert await response.read() == b"hub"


@pytest.mark.parametrize(("path", "is_ours"), [("/v1/embeddings", True), ("/-/healthz", False)])
async def test_what_serve_drops_is_told_in_the_hubs_shape(path: str, is_ours: bool) -> None:
    app = LocalFastPath(PlainTextResponse("Request dropped due to backpressure", status_code=503), [])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        answer = await client.get(path)
    assert answer.status_code == 503
    assert (answer.headers.get("retry-after") == "1") is is_ours
    assert (answer.text != "Request dropped due to backpressure") is is_ours
    if is_ours:
        assert answer.json()["error"]["code"] == "overloaded"
