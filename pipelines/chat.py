"""The chat service: plain requests go straight through to an engine, those with `retrieval` through the RAG pipeline."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

from aihub.engines.base import ChatEngine, ChatModelCard
from aihub.errors import EngineTimeoutError, HubError, InternalError, ModelUnavailableError, NotFoundError
from aihub.schemas.chat import ChatCompletionRequest
from aihub.schemas.completions import CompletionRequest
from aihub.security.principal import Principal
from pipelines.rag import RagPipeline
from pipelines.routing import AUTO
from pipelines.sse import error_frame

logger = logging.getLogger(__name__)


class EngineDirectory(Protocol):
    """Chat models by the name clients send."""

    async def resolve(self, model_id: str, body: Mapping[str, Any] | None = None) -> ChatEngine:
        """Return the engine of a model.

        Args:
            body: The engine's body, by which `auto` decides.

        Raises:
            NotFoundError: No such model (`model_not_found`).
            ModelUnavailableError: The model is known, but cannot be loaded or has died.
        """
        ...

    async def list(self) -> list[ChatModelCard]: ...


def model_not_found(model_id: str, known: Iterable[str]) -> NotFoundError:
    """Build the error for a name no chat model has."""
    names = ", ".join(sorted(known)) or "none"
    return NotFoundError(
        f"There is no chat model {model_id!r}. Known chat models: {names}.", param="model", code="model_not_found"
    )


class ChatPipeline:
    """Implements `aihub.api.services.ChatService`.

    Args:
        timeout_s: Longest answer, streamed or not, retrieval included.
    """

    def __init__(self, engines: EngineDirectory, rag: RagPipeline, *, timeout_s: float) -> None:
        self._engines = engines
        self._rag = rag
        self._timeout_s = timeout_s

    async def chat(self, principal: Principal, request: ChatCompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `chat.completion` object.

        Raises:
            EngineTimeoutError: No answer within the limit.
            HubError: Whatever the engine or retrieval raises.
        """
        async with self._time_limit():
            engine = await self._resolve(request)
            if request.retrieval is None:
                return await engine.chat(request.to_engine_body((await engine.card()).special_tokens))
            return await self._rag.answer(principal, engine, request)

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        """Wait for the first frame, then return the stream with it; errors before it are raised here.

        Later errors end the stream with an error frame. Closing the stream closes the engine's.
        """
        async with self._time_limit():
            engine = await self._resolve(request)
            card = await engine.card()
        if request.retrieval is None:
            return await self._open(engine.stream_chat(request.to_engine_body(card.special_tokens)))
        return await self._open(self._rag.stream(principal, engine, request))

    async def complete(self, principal: Principal, request: CompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `text_completion` object; raises as `chat` does."""
        async with self._time_limit():
            engine = await self._resolve(request)
            return await engine.complete(request.to_engine_body())

    async def open_complete_stream(self, principal: Principal, request: CompletionRequest) -> AsyncGenerator[str, None]:
        """Open a completion stream; promises and errors as `open_chat_stream`."""
        async with self._time_limit():
            engine = await self._resolve(request)
        return await self._open(engine.stream_complete(request.to_engine_body()))

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """Return the chat models as OpenAI model objects."""
        cards = await self._engines.list()
        return [{"id": card.model_id, "object": "model", "created": card.created, "owned_by": card.owned_by} for card in cards]

    async def _resolve(self, request: ChatCompletionRequest | CompletionRequest) -> ChatEngine:
        # Only `auto` looks at what is asked.
        return await self._engines.resolve(request.model, request.to_engine_body() if request.model == AUTO else None)

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise self._too_slow() from error

    async def _open(self, frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        relay = self._relay(frames)
        # A generator that was never started runs no `finally` when closed, so it is brought to its first frame here.
        await anext(relay)
        return relay

    async def _relay(self, frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """Pass frames on as they are, under one time limit.

        The first item is empty and comes once the first frame is there: what fails before it is raised, what fails
        after it becomes the last frame.
        """
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        is_open = False
        async with aclosing(frames):
            try:
                while True:
                    async with asyncio.timeout_at(deadline_s):
                        frame = await anext(frames)
                    if not is_open:
                        is_open = True
                        yield ""
                    yield frame
            except StopAsyncIteration as end:
                if not is_open:
                    raise ModelUnavailableError("The engine closed without an answer. Try again.") from end
            except Exception as error:  # the last border before the client: every failure is told
                told = self._told(error)
                if not is_open:
                    raise told from error
                yield error_frame(told)

    def _told(self, error: Exception) -> HubError:
        if isinstance(error, HubError):
            return error
        if isinstance(error, TimeoutError):
            return self._too_slow()
        logger.exception("A chat stream failed.", exc_info=error)
        return InternalError("The answer broke off because of an error inside the hub. The log has the details.")

    def _too_slow(self) -> EngineTimeoutError:
        return EngineTimeoutError(f"The answer took longer than {self._timeout_s:g} s. Ask for fewer tokens and try again.")
