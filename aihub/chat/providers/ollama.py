"""Models of an Ollama server, by its native API: newline-delimited JSON there, OpenAI's shapes here.

Source: Ollama API reference, `POST /api/chat`, `POST /api/generate` (raw), `GET /api/tags`.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any

from aihub.chat.providers.connection import DONE, ProviderConnection, broken_off, data_frame, error_frame, raise_told_error
from aihub.chat.providers.failures import ProviderError, Refusal, explain_refusal
from aihub.chat.providers.ollama_shapes import Answer, chat_request, generate_requests
from aihub.chat.providers.origin import parse_object
from aihub.chat.service import ChatModelInfo, estimate_tokens
from aihub.core.errors import HubError, NotFoundError
from aihub.core.health import PartHealth
from aihub.core.request_record import get_record

MAX_PARALLEL_CHOICES = 4


def explain_ollama_refusal(refusal: Refusal) -> HubError:
    """As `explain_refusal`; a missing model comes with the command that gets it."""
    if refusal.status == 404:
        return NotFoundError(
            f"Ollama says: {refusal.message or 'model not found'}. Get it with `aihub models download --models ollama:<name>`.",
            param="model",
            code="model_not_found",
        )
    return explain_refusal(refusal)


class OllamaEngine:
    """One model of an Ollama server; satisfies `ChatEngine`.

    Args:
        model: Its name there, as `gemma2:9b`; answers carry the model info's.
    """

    def __init__(self, connection: ProviderConnection, model: str, model_info: ChatModelInfo) -> None:
        self._connection = connection
        self._model = model
        self._model_info = model_info

    async def model_info(self) -> ChatModelInfo:
        return self._model_info

    async def health(self) -> PartHealth:
        return self._connection.health

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """Estimate on the large side; see `estimate_tokens`."""
        return estimate_tokens(body)

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        request = chat_request(body, self._model, self._model_info.context_tokens)
        requests = [request] * int(body.get("n") or 1)
        return await self._whole("/api/chat", requests, Answer("chat.completion", self._model_info.model_id))

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        requests = generate_requests(body, self._model, self._model_info.context_tokens)
        return await self._whole("/api/generate", requests, Answer("text_completion", self._model_info.model_id))

    async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        request = chat_request(body, self._model, self._model_info.context_tokens)
        requests = [request] * int(body.get("n") or 1)
        async with aclosing(
            self._frames("/api/chat", requests, Answer("chat.completion.chunk", self._model_info.model_id), body)
        ) as all_:
            async for frame in all_:
                yield frame

    async def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        requests = generate_requests(body, self._model, self._model_info.context_tokens)
        async with aclosing(
            self._frames("/api/generate", requests, Answer("text_completion", self._model_info.model_id), body)
        ) as all_:
            async for frame in all_:
                yield frame

    async def _whole(self, path: str, requests: list[dict[str, Any]], answer: Answer) -> dict[str, Any]:
        gate = asyncio.Semaphore(MAX_PARALLEL_CHOICES)

        async def ask(request: dict[str, Any]) -> dict[str, Any]:
            async with gate:
                return await self._connection.ask(path, request | {"stream": False}, self._check)

        asked: list[Coroutine[Any, Any, dict[str, Any]]] = [ask(request) for request in requests]
        native = [await asked[0]] if len(asked) == 1 else await _all_or_none(asked)
        return answer.whole(native, self._origin(native[0]))

    async def _frames(
        self, path: str, requests: list[dict[str, Any]], answer: Answer, body: dict[str, Any]
    ) -> AsyncGenerator[str, None]:
        """Stream one choice after the other: an Ollama stream has one only."""
        has_begun = False
        try:
            for index, request in enumerate(requests):
                chunks = self._connection.stream(path, request | {"stream": True}, read_objects)
                async with aclosing(chunks):
                    async for native in chunks:
                        for chunk in answer.chunks(native, index):
                            yield data_frame(chunk if has_begun else chunk | {"aihub": self._origin(native)})
                            has_begun = True
        except HubError as error:
            if not has_begun:
                raise
            yield error_frame(error)
            return
        last = answer.usage_chunk()
        get_record().note_usage(last["usage"])
        if (body.get("stream_options") or {}).get("include_usage"):
            yield data_frame(last)
        yield DONE

    def _origin(self, native: dict[str, Any]) -> dict[str, str]:
        return {"provider": self._connection.provider, "model": str(native.get("model") or self._model)}

    def _check(self, native: dict[str, Any]) -> None:
        raise_told_error(self._connection.provider, native)
        is_answer = isinstance(native.get("message"), dict) or isinstance(native.get("response"), str)
        if not is_answer or native.get("done") is not True:
            raise ProviderError(f"The provider {self._connection.provider!r} sent JSON that is no answer of Ollama's API.")


async def read_objects(provider: str, lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the objects of an Ollama stream, the last being `done`; closing this closes `lines`.

    Raises:
        ProviderUnavailableError: The stream ended before `done`.
        HubError: A line carries an error, or is no JSON object.
    """
    async with aclosing(lines):
        async for line in lines:
            native = parse_object(provider, line)
            raise_told_error(provider, native)
            if not isinstance(native.get("message"), dict) and not isinstance(native.get("response"), str):
                raise ProviderError(f"The provider {provider!r} streamed JSON that is no answer of Ollama's API.")
            is_last = native.get("done") is True
            yield native
            if is_last:
                async for _ in lines:
                    pass
                return
    raise broken_off(provider)


async def _all_or_none(asked: list[Coroutine[Any, Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Await all; when one fails, stop the others and raise its error."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
