"""Answers that take long: waiting for them only as long as the client waits, and sending them as they come."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aihub.core.errors import EngineTimeoutError, HubError
from aihub.core.metrics import Metrics
from aihub.core.request_record import get_record
from aihub.http.errors import public_error

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

WRITE_TIMEOUT_S = 60.0
"""Longest wait for a slow client to take the next frame; its stream is dropped then."""

# Text inside JSON has its quotes escaped, so neither can be said by a model.
_PIECE = re.compile(r'"(?:content|reasoning|reasoning_content|arguments|text)":\s?"(?!")')
_ERROR = re.compile(r'data: \{"error":.*"code":\s?"([^"]+)"')


async def until_disconnect(
    request: Request,
    work: Coroutine[Any, Any, Answer],
    *,
    timeout_s: float,
    advice: str = "Ask for fewer tokens, or stream.",
) -> Answer:
    """Await `work`; cancel it as soon as the client leaves or the time is up. The body must have been read.

    Args:
        advice: What to do when it takes too long.

    Raises:
        ClientDisconnect: The client left first.
        EngineTimeoutError: No answer within `timeout_s`.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait((task, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnect
        raise EngineTimeoutError(f"No answer within {timeout_s:g} s. {advice}")
    finally:
        await _cancel(task, gone)


class EventStream(Response):
    """Server-sent events from a generator of finished frames.

    The generator is closed promptly when the client leaves, also between frames. An error in the middle ends the stream
    with an error frame and `[DONE]`, as vLLM does, so a client never waits in silence.

    Args:
        on_frame: Called with each frame before it is sent, for metrics.
    """

    def __init__(self, frames: AsyncGenerator[str, None], *, timeout_s: float, on_frame: Callable[[str], None]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "Content-Type": "text/event-stream; charset=utf-8"}
        super().__init__(headers=headers)
        # A stream has no length; Starlette adds that of the empty body.
        del self.headers["content-length"]
        self._frames = frames
        self._timeout_s = timeout_s
        self._on_frame = on_frame
        get_record().is_streamed = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((sender, gone), return_when=asyncio.FIRST_COMPLETED)
            if sender.done():
                sender.result()
        finally:
            await _cancel(sender, gone)
            await self._frames.aclose()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await self._send_frames(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except _SlowClientError:
            # Without the last piece of the body the server closes the connection.
            logger.warning("A client took no data for %g s; its stream was dropped.", WRITE_TIMEOUT_S)

    async def _send_frames(self, send: Send) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                async for frame in self._frames:
                    self._on_frame(frame)
                    await _write(send, frame)
        except _SlowClientError:
            raise
        except TimeoutError:
            await _write(send, _error_frames(EngineTimeoutError(f"The answer took longer than {self._timeout_s:g} s.")))
        except Exception as error:  # noqa: BLE001  # the edge: any failure must reach the client as a frame
            await _write(send, _error_frames(public_error(error)))


async def kept_alive(frames: AsyncGenerator[str, None], *, every_s: float) -> AsyncGenerator[str, None]:
    """Yield what `frames` yields, and a comment after each `every_s` of silence; closing it closes `frames`."""
    following: asyncio.Task[str | None] | None = None
    try:
        while True:
            following = following or asyncio.create_task(_following(frames))
            done, _ = await asyncio.wait({following}, timeout=every_s)
            if not done:
                yield ": still running\n\n"
                continue
            frame, following = following.result(), None
            if frame is None:
                break
            yield frame
    finally:
        if following is not None:
            following.cancel()
            # Gathered, so that what it ends with is taken.
            await asyncio.gather(following, return_exceptions=True)
        await frames.aclose()


async def _following(frames: AsyncGenerator[str, None]) -> str | None:
    return await anext(frames, None)


class UsageObserver:
    """Counts the first token and the tokens of one request, for Prometheus and in the request's record."""

    def __init__(self, metrics: Metrics, route: str) -> None:
        self._metrics = metrics
        self._route = route
        self._record = get_record()
        self._started_s = time.perf_counter()
        self._has_begun = False

    def frame(self, frame: str) -> None:
        """Look at one frame of a stream: the first one is the first token, one may carry the usage; comments are neither."""
        if frame.startswith(":"):
            return
        if not self._has_begun:
            self._has_begun = True
            now_s = time.perf_counter()
            self._metrics.first_token.labels(self._route).observe(now_s - self._started_s)
            self._record.first_token_s = now_s - self._record.started_s
        self._record.note_streamed(len(_PIECE.findall(frame)))
        if '"usage":{' in frame or '"usage": {' in frame:
            for line in frame.splitlines():
                if line.startswith("data: {"):
                    self.answer(json.loads(line.removeprefix("data: ")))
        elif (error := _ERROR.match(frame)) is not None:
            self._record.error_code = error[1]

    def answer(self, answer: Mapping[str, Any]) -> None:
        """Count the usage of a whole answer or chunk."""
        usage = answer.get("usage")
        if isinstance(usage, dict):
            self._metrics.observe_usage(self._route, usage)
            self._record.note_usage(usage)


def usage_observer(metrics: Metrics, request: Request) -> UsageObserver:
    """Start observing a request by its route's template."""
    return UsageObserver(metrics, request.scope["route"].path)


class _SlowClientError(Exception):
    pass


async def _write(send: Send, frame: str) -> None:
    try:
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await send({"type": "http.response.body", "body": frame.encode(), "more_body": True})
    except TimeoutError as error:
        raise _SlowClientError from error


def _error_frames(error: HubError) -> str:
    get_record().error_code = error.code
    return f"data: {json.dumps(error.to_openai(), ensure_ascii=False)}\n\ndata: [DONE]\n\n"


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
