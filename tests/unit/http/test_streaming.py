import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi import Request
from starlette.requests import ClientDisconnect

from aihub.core.errors import EngineTimeoutError, ModelUnavailableError
from aihub.http import streaming
from aihub.http.streaming import EventStream, until_disconnect


class Client:
    """The far end of one request: leaves when told to, and can refuse to take data."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.takes_data = True
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body" and not self.takes_data:
            await asyncio.Event().wait()
        self.sent.append(message)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def is_complete(self) -> bool:
        return self.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


class Source:
    """A stream of frames that knows whether it was closed."""

    def __init__(self, *items: str | Exception, wait_s: float = 0.0) -> None:
        self.items = items
        self.wait_s = wait_s
        self.is_closed = False

    async def frames(self) -> AsyncGenerator[str, None]:
        try:
            for item in self.items:
                await asyncio.sleep(self.wait_s)
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.is_closed = True


def stream_of(source: Source, *, timeout_s: float = 5.0, seen: list[str] | None = None) -> EventStream:
    return EventStream(source.frames(), timeout_s=timeout_s, on_frame=(seen if seen is not None else []).append)


async def test_frames_are_sent_as_they_come_and_the_stream_is_completed() -> None:
    client, source, seen = Client(), Source("data: 1\n\n", "data: [DONE]\n\n"), []
    await stream_of(source, seen=seen)({}, client.receive, client.send)
    assert [message.get("body") for message in client.sent[1:]] == [b"data: 1\n\n", b"data: [DONE]\n\n", b""]
    assert seen == ["data: 1\n\n", "data: [DONE]\n\n"]
    assert client.is_complete
    assert source.is_closed


async def test_hub_error_in_the_middle_becomes_an_error_frame() -> None:
    client, source = Client(), Source("data: 1\n\n", ModelUnavailableError("The model died."))
    await stream_of(source)({}, client.receive, client.send)
    assert '"code": "model_unavailable"' in client.text
    assert "The model died." in client.text
    assert client.text.endswith("data: [DONE]\n\n")
    assert client.is_complete


async def test_bug_in_the_middle_becomes_an_error_frame_without_details() -> None:
    client, source = Client(), Source("data: 1\n\n", RuntimeError("secret"))
    await stream_of(source)({}, client.receive, client.send)
    assert '"code": "internal_error"' in client.text
    assert "secret" not in client.text
    assert client.text.endswith("data: [DONE]\n\n")


async def test_stream_over_its_time_ends_with_an_error_frame() -> None:
    client, source = Client(), Source("data: 1\n\n", "data: 2\n\n", wait_s=0.05)
    await stream_of(source, timeout_s=0.08)({}, client.receive, client.send)
    assert "engine_timeout" in client.text
    assert source.is_closed


async def test_client_that_leaves_between_frames_closes_the_source_at_once() -> None:
    client, source = Client(), Source("data: 1\n\n", "data: 2\n\n", wait_s=30.0)
    serving = asyncio.create_task(stream_of(source)({}, client.receive, client.send))
    await asyncio.sleep(0.01)
    client.left.set()
    await asyncio.wait_for(serving, 1.0)
    assert source.is_closed


async def test_cancelled_request_closes_the_source() -> None:
    client, source = Client(), Source("data: 1\n\n", wait_s=30.0)
    serving = asyncio.create_task(stream_of(source)({}, client.receive, client.send))
    await asyncio.sleep(0.01)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert source.is_closed


async def test_client_that_takes_no_data_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WRITE_TIMEOUT_S", 0.05)
    client, source = Client(), Source(*["data: 1\n\n"] * 100)
    client.takes_data = False
    await asyncio.wait_for(stream_of(source)({}, client.receive, client.send), 2.0)
    assert source.is_closed
    assert not any(message["type"] == "http.response.body" for message in client.sent)


def request_of(client: Client) -> Request:
    return Request({"type": "http", "method": "POST", "headers": []}, client.receive)


async def test_work_that_ends_first_gives_its_result() -> None:
    assert await until_disconnect(request_of(Client()), asyncio.sleep(0.01, "xong"), timeout_s=1.0) == "xong"


async def test_error_of_the_work_is_raised_as_it_is() -> None:
    async def fail() -> None:
        raise ModelUnavailableError("gone")

    with pytest.raises(ModelUnavailableError):
        await until_disconnect(request_of(Client()), fail(), timeout_s=1.0)


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    client, stopped = Client(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            stopped.set()

    waiting = asyncio.create_task(until_disconnect(request_of(client), work(), timeout_s=60.0))
    await asyncio.sleep(0.01)
    client.left.set()
    with pytest.raises(ClientDisconnect):
        await asyncio.wait_for(waiting, 1.0)
    assert stopped.is_set()


async def test_work_over_its_time_is_cancelled() -> None:
    with pytest.raises(EngineTimeoutError):
        await until_disconnect(request_of(Client()), asyncio.sleep(30), timeout_s=0.02)
