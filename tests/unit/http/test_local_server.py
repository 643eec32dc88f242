import asyncio
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from aihub.http.local_server import LocalServer


class Slow:
    """Answers when it may."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.set()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


@pytest.fixture
def path() -> Iterator[Path]:
    """Short enough for a socket, which pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="door-") as folder:
        yield Path(folder) / "sockets" / "hub.sock"


async def ask(path: Path) -> bytes:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        return (await client.get("http://hub/")).content


async def test_only_the_owner_may_enter_the_folder(path: Path) -> None:
    server = LocalServer(Slow(), path)
    await server.start()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await server.close()
    assert not path.exists()  # noqa: ASYNC240  # a test may wait


async def test_close_waits_for_requests_and_takes_no_more(path: Path) -> None:
    app = Slow()
    server = LocalServer(app, path)
    await server.start()
    asking = asyncio.create_task(ask(path))
    await app.asked.wait()
    closing = asyncio.create_task(server.close())
    await asyncio.sleep(0.05)
    with pytest.raises(httpx.ConnectError):
        await ask(path)
    app.go_on.set()
    assert await asking == b"done"
    await closing


async def test_request_that_never_ends_does_not_hold_up_the_close(path: Path) -> None:
    app = Slow()
    server = LocalServer(app, path)
    await server.start()
    asking = asyncio.create_task(ask(path))
    await app.asked.wait()
    await asyncio.wait_for(server.close(grace_s=0.1), 2)
    asking.cancel()


async def test_socket_that_a_dead_process_left_is_replaced(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.touch()  # noqa: ASYNC240  # a test may wait
    app = Slow()
    app.go_on.set()
    server = LocalServer(app, path)
    await server.start()
    assert await ask(path) == b"done"
    await server.close()


async def test_close_leaves_the_socket_of_a_younger_server(path: Path) -> None:
    app = Slow()
    app.go_on.set()
    old, young = LocalServer(app, path), LocalServer(app, path)
    await old.start()
    await young.start()
    await old.close()
    assert await ask(path) == b"done"
    await young.close()


async def test_path_too_long_for_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "hub.sock"
    server = LocalServer(Slow(), path)
    await server.start()
    assert not path.parent.exists()
    await server.close()
