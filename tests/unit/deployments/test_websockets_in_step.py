"""Websockets through the middleware of Serve's proxy, which reads without end: one frame is let through at a time."""

import asyncio
from collections import deque

from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect

from deployments.local_fast_path import LocalFastPath
from tests.unit.deployments.test_local_fast_path import serving


class EagerProxy:
    """Takes whatever the client sends as soon as it can, as Serve's proxy does, and answers a frame when told to."""

    def __init__(self) -> None:
        self.waiting: deque[Message] = deque()
        self.most = 0
        self.disconnected = asyncio.Event()
        self.go_on = asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        answering = asyncio.create_task(self._answer(send))
        while (message := await receive())["type"] != "websocket.disconnect":
            self.waiting.append(message)
            self.most = max(self.most, len(self.waiting))
        self.disconnected.set()
        answering.cancel()

    async def _answer(self, send: Send) -> None:
        while True:
            await self.go_on.acquire()
            while not self.waiting:  # noqa: ASYNC110  # the proxy fills it
                await asyncio.sleep(0.001)
            frame = self.waiting.popleft()
            await send({"type": "websocket.send", "text": str(len(frame.get("bytes") or b""))})


async def test_next_frame_is_read_once_the_last_is_answered() -> None:
    proxy = EagerProxy()
    async with serving(LocalFastPath(proxy, sockets=[])) as url, connect(url.replace("http", "ws")) as client:
        for _ in range(20):
            await client.send(bytes(1000))
        await asyncio.sleep(0.1)
        assert proxy.most == 1
        for _ in range(20):
            proxy.go_on.release()
            assert await client.recv() == "1000"
        assert proxy.most == 1


async def test_texts_need_no_answer() -> None:
    proxy = EagerProxy()
    async with serving(LocalFastPath(proxy, sockets=[])) as url, connect(url.replace("http", "ws")) as client:
        for text in ("a", "b", "c"):
            await client.send(text)
        for _ in range(3):
            proxy.go_on.release()
            assert await client.recv() == "0"


async def test_client_that_leaves_is_seen_once_its_frame_is_answered() -> None:
    proxy = EagerProxy()
    async with serving(LocalFastPath(proxy, sockets=[])) as url:
        client = await connect(url.replace("http", "ws"))
        await client.send(bytes(10))
        client.transport.abort()
        proxy.go_on.release()
        await asyncio.wait_for(proxy.disconnected.wait(), 3)
