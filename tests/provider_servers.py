"""Local servers that speak the providers' documented protocols, failures included; a fake engine answers behind them."""

import asyncio
import json
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import ContextLengthError, HubError


class Fault:
    """What the server does with one request instead of answering it.

    Args:
        status: Answer with this status; None answers well and then breaks as the rest says.
        cut_after: Close the connection after so many lines or events of a stream (0: before the first, headers sent).
        raw: Send this body as it is.
        delay_s: Wait before doing anything.
    """

    def __init__(
        self,
        status: int | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        cut_after: int | None = None,
        raw: bytes | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers or {}
        self.cut_after = cut_after
        self.raw = raw
        self.delay_s = delay_s


class ProviderServer:
    """A server on 127.0.0.1 in a thread of this process. Subclasses say which protocol.

    Attributes:
        engine: Answers.
        faults: Taken one per request, first in first out; without any, requests are answered.
        bodies: Bodies received.
        headers: Headers of each request.
    """

    paths: dict[str, str] = {}

    def __init__(self) -> None:
        self.engine = FakeChatEngine("upstream-model", token_s=0.003)
        self.faults: deque[Fault] = deque()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        routes = [Route(path, getattr(self, method), methods=["GET", "POST"]) for path, method in self.paths.items()]
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(Starlette(routes=routes), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    def reset(self) -> None:
        """Forget what happened, for the next test."""
        self.faults.clear()
        self.bodies.clear()
        self.headers.clear()
        self.engine = FakeChatEngine("upstream-model", token_s=0.003)

    async def _take(self, request: Request) -> tuple[dict[str, Any], Fault | None]:
        body = await request.json() if request.method == "POST" else {}
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            await asyncio.sleep(fault.delay_s)
        return body, fault

    @staticmethod
    def _failed(fault: Fault | None) -> Response | None:
        if fault is None:
            return None
        if fault.raw is not None:
            return Response(fault.raw, status_code=fault.status or 200, headers=fault.headers)
        if fault.status is not None:
            return JSONResponse(fault.body if fault.body is not None else {}, status_code=fault.status, headers=fault.headers)
        return None


class _CutError(Exception):
    """Makes uvicorn close the connection in the middle of an answer."""


async def cut(pieces: AsyncGenerator[str, None], after: int | None) -> AsyncGenerator[str, None]:
    """Yield the pieces; break off after so many."""
    count = 0
    try:
        async for piece in pieces:
            if after is not None and count >= after:
                raise _CutError
            yield piece
            count += 1
    finally:
        await pieces.aclose()


async def _first(pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Bring errors before the first piece here, as servers send them with a status."""
    first = await anext(pieces)

    async def whole() -> AsyncGenerator[str, None]:
        try:
            yield first
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    return whole()


class OpenAIServer(ProviderServer):
    """OpenAI's API, chat and completions."""

    paths = {"/v1/chat/completions": "chat", "/v1/completions": "complete"}

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, self.engine.chat, self.engine.stream_chat)

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, self.engine.complete, self.engine.stream_complete)

    async def _answer(self, request: Request, whole: Any, stream: Any) -> Response:
        body, fault = await self._take(request)
        if (failed := self._failed(fault)) is not None:
            return failed
        try:
            if not body.get("stream"):
                return JSONResponse(await whole(body))
            frames = await _first(stream(body))
        except HubError as error:
            return JSONResponse(error.to_openai(), status_code=error.status)
        return StreamingResponse(cut(frames, fault.cut_after if fault else None), media_type="text/event-stream")


class OllamaServer(ProviderServer):
    """Ollama's native API: chat, raw generate and the list of models."""

    paths = {"/api/chat": "chat", "/api/generate": "generate", "/api/tags": "tags"}
    models: tuple[str, ...] = ("gemma2:9b", "upstream-model")
    tool_call: dict[str, Any] | None = None

    def reset(self) -> None:
        super().reset()
        self.tool_call = None

    async def tags(self, request: Request) -> Response:
        _, fault = await self._take(request)
        return self._failed(fault) or JSONResponse({"models": [{"name": name, "digest": "0" * 64} for name in self.models]})

    async def chat(self, request: Request) -> Response:
        body, fault = await self._take(request)
        asked = _openai_body(body) | {"messages": [_openai_message(message) for message in body["messages"]]}
        return self._failed(fault) or await self._answer(body, fault, self.engine.chat(asked), self.engine.stream_chat(asked))

    async def generate(self, request: Request) -> Response:
        body, fault = await self._take(request)
        asked = _openai_body(body) | {"prompt": body["prompt"]}
        stream = self.engine.stream_complete(asked)
        return self._failed(fault) or await self._answer(body, fault, self.engine.complete(asked), stream)

    async def _answer(self, body: dict[str, Any], fault: Fault | None, whole: Any, stream: Any) -> Response:
        try:
            if body.get("stream") is False:
                answer = await whole
                return JSONResponse(self._native(body, answer["choices"][0], answer["usage"]))
            whole.close()
            lines = await _first(self._lines(body, stream))
        except HubError as error:
            # What Ollama's runner says when `truncate` is false and the prompt is longer than num_ctx.
            too_long = "the input length exceeds the context length: " if isinstance(error, ContextLengthError) else ""
            return JSONResponse({"error": f"{too_long}{error.message}"}, status_code=400)
        return StreamingResponse(cut(lines, fault.cut_after if fault else None), media_type="application/x-ndjson")

    async def _lines(self, body: dict[str, Any], stream: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        usage: dict[str, int] = {}
        finish = "stop"
        async for frame in stream:
            if frame.startswith("data: [DONE]"):
                break
            chunk = json.loads(frame.removeprefix("data: "))
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                finish = choice["finish_reason"] or finish
                said = choice["text"] if "text" in choice else choice["delta"].get("content")
                if said and not choice["finish_reason"]:
                    yield json.dumps(self._piece(body, said) | {"done": False}, ensure_ascii=False) + "\n"
        yield json.dumps(self._native(body, {"text": "", "finish_reason": finish}, usage, said=""), ensure_ascii=False) + "\n"

    def _piece(self, body: dict[str, Any], said: str) -> dict[str, Any]:
        head = {"model": body["model"], "created_at": "2026-11-20T08:00:00.000000Z"}
        if "prompt" in body:
            return head | {"response": said}
        return head | {"message": {"role": "assistant", "content": said}}

    def _native(
        self, body: dict[str, Any], choice: dict[str, Any], usage: dict[str, int], said: str | None = None
    ) -> dict[str, Any]:
        text = said if said is not None else choice.get("text") or choice.get("message", {}).get("content") or ""
        native = self._piece(body, text)
        if self.tool_call is not None and "message" in native:
            native["message"] = {"role": "assistant", "content": "", "tool_calls": [{"function": self.tool_call}]}
        counts = {"prompt_eval_count": usage["prompt_tokens"], "eval_count": usage["completion_tokens"]}
        return native | {"done": True, "done_reason": choice["finish_reason"], "total_duration": 5_000_000} | counts


def _openai_message(message: dict[str, Any]) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}} for data in message.get("images", ())]
    return message | {"content": [*images, {"type": "text", "text": message["content"]}]} if images else message


def _openai_body(body: dict[str, Any]) -> dict[str, Any]:
    options = body.get("options") or {}
    asked: dict[str, Any] = {"stream_options": {"include_usage": True}}
    if options.get("num_predict"):
        asked["max_completion_tokens" if "messages" in body else "max_tokens"] = options["num_predict"]
    if options.get("stop"):
        asked["stop"] = options["stop"]
    return asked
