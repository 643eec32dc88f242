"""The chat service: plain requests go straight through to an engine, those with `retrieval` through the RAG pipeline."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from copy import copy
from functools import partial
from typing import Any, Protocol

from aihub.chat.completions import CompletionRequest
from aihub.chat.routing import AUTO
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.errors import (
    EngineTimeoutError,
    HubError,
    InternalError,
    InvalidRequestError,
    ModelUnavailableError,
    NotFoundError,
)
from aihub.core.principal import Principal
from aihub.core.sse import error_frame
from pipelines.answer_basis import AnswerBasis, ModelIdentifier, ModelIdentity
from pipelines.load_wait import LoadWait, open_stream
from pipelines.media_parts import MediaParts
from pipelines.rag import RagPipeline

logger = logging.getLogger(__name__)


class EngineDirectory(Protocol):
    """Chat models by the name clients send, as far as the caller may use them."""

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        """Return the engine of a model.

        Args:
            body: The engine's body, by which `auto` decides.
            wait: Where a wait for a load is noted, and its limit; None waits as long as the lifecycle allows.

        Raises:
            NotFoundError: No such model (`model_not_found`).
            ModelUnavailableError: The model is known, but cannot be loaded or has died.
            PermissionDeniedError: The caller's key is not for it.
        """
        ...

    async def require(self, principal: Principal, model_id: str) -> None:
        """Raise `NotFoundError` where there is no such model, as `resolve` would; nothing is loaded."""
        ...

    async def list(self, principal: Principal) -> list[ChatModelInfo]: ...


class IdentifyingDirectory(EngineDirectory, ModelIdentifier, Protocol):
    """A directory that also tells models of one name apart."""


def model_not_found(model_id: str, known: Iterable[str]) -> NotFoundError:
    """Build the error for a name no chat model has."""
    names = ", ".join(sorted(known)) or "none"
    return NotFoundError(
        f"There is no chat model {model_id!r}. Known chat models: {names}.", param="model", code="model_not_found"
    )


class ChatPipeline:
    """Implements `aihub.chat.service.ChatService`.

    Args:
        timeout_s: Longest answer, streamed or not, retrieval included.
        load_wait_s: How long an answer that is not streamed waits for its model to be loaded before it is refused; None waits
            as long as the lifecycle allows, as streams do.
        media: Reads images, recordings, videos and files; without it they are refused.
    """

    def __init__(
        self,
        engines: IdentifyingDirectory,
        rag: RagPipeline,
        *,
        timeout_s: float,
        load_wait_s: float | None = None,
        media: MediaParts | None = None,
    ) -> None:
        self._engines = engines
        self._rag = rag
        self._media = media
        self._timeout_s = timeout_s
        self._load_wait_s = load_wait_s

    def with_rag(self, rag: RagPipeline) -> "ChatPipeline":
        """Return a pipeline of the same parts that finds its sources by `rag`."""
        other = copy(self)
        other._rag = rag
        return other

    async def require(self, principal: Principal, request: ChatCompletionRequest) -> None:
        """Look for the model and the vector stores of a request that will be asked later; raises what `chat` raises of them."""
        await self._engines.require(principal, request.model)
        if request.retrieval is not None:
            await self._rag.open_stores(principal, request.retrieval)

    async def chat(self, principal: Principal, request: ChatCompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `chat.completion` object.

        Raises:
            EngineTimeoutError: No answer within the limit.
            HubError: Whatever the engine or retrieval raises.
        """
        async with self._time_limit():
            engine, request = await self._prepare(principal, request, LoadWait(self._load_wait_s))
            if request.retrieval is None:
                return await engine.chat(request.to_engine_body((await engine.model_info()).special_tokens))
            return await self._rag.answer(principal, engine, request)

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        """Wait for the first frame, then return the stream with it; errors before it are raised here.

        A model that must be loaded is not waited for: the stream then begins with comments (see `pipelines.load_wait`). Later
        errors end the stream with an error frame. Closing the stream closes the engine's.
        """
        return await self._open(partial(self._chat_frames, principal, request))

    async def complete(self, principal: Principal, request: CompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `text_completion` object; raises as `chat` does."""
        async with self._time_limit():
            engine = await self._resolve(principal, request, LoadWait(self._load_wait_s))
            return await engine.complete(request.to_engine_body())

    async def open_complete_stream(self, principal: Principal, request: CompletionRequest) -> AsyncGenerator[str, None]:
        """Open a completion stream; promises and errors as `open_chat_stream`."""
        return await self._open(partial(self._complete_frames, principal, request))

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """Return the chat models as OpenAI model objects."""
        model_infos = await self._engines.list(principal)
        return [
            {"id": model_info.model_id, "object": "model", "created": model_info.created, "owned_by": model_info.owned_by}
            for model_info in model_infos
        ]

    async def find_basis(self, principal: Principal, request: ChatCompletionRequest | CompletionRequest) -> AnswerBasis | None:
        """Return what an answer to a request without media rests on; see `BasisFinder`."""
        body = request.to_engine_body() if request.model == AUTO else None
        try:
            identity = await self._engines.identify(principal, request.model, body)
        except HubError:
            return None  # whoever answers finds the same, or a model to fall back to
        if identity is None or not isinstance(request, ChatCompletionRequest) or request.retrieval is None:
            return None if identity is None else AnswerBasis(identity)
        sources = await self._rag.read_versions(principal, request.retrieval)
        return None if sources is None else AnswerBasis(identity, sources)

    async def is_still(self, principal: Principal, model_id: str, identity: ModelIdentity) -> bool:
        """See `BasisFinder`."""
        try:
            return await self._engines.identify(principal, model_id, is_fresh=True) == identity
        except HubError:
            return False  # it is gone

    async def _chat_frames(
        self, principal: Principal, request: ChatCompletionRequest, wait: LoadWait
    ) -> AsyncGenerator[str, None]:
        engine, request = await self._prepare(principal, request, wait)
        model_info = await engine.model_info()
        if request.retrieval is None:
            return engine.stream_chat(request.to_engine_body(model_info.special_tokens))
        return self._rag.stream(principal, engine, request)

    async def _complete_frames(
        self, principal: Principal, request: CompletionRequest, wait: LoadWait
    ) -> AsyncGenerator[str, None]:
        engine = await self._resolve(principal, request, wait)
        return engine.stream_complete(request.to_engine_body())

    async def _prepare(
        self, principal: Principal, request: ChatCompletionRequest, wait: LoadWait
    ) -> tuple[ChatEngine, ChatCompletionRequest]:
        """Return the engine, and the request as it takes it."""
        if not request.has_media:
            return await self._resolve(principal, request, wait), request
        if self._media is None:
            raise InvalidRequestError("Only text is read here.", param="messages", code="text_only")
        with wait.working("reading images and recordings"):
            return await self._media.prepare(principal, request, partial(self._resolve, principal, wait=wait))

    async def _resolve(
        self, principal: Principal, request: ChatCompletionRequest | CompletionRequest, wait: LoadWait
    ) -> ChatEngine:
        # Only `auto` looks at what is asked.
        body = request.to_engine_body() if request.model == AUTO else None
        return await self._engines.resolve(principal, request.model, body, wait=wait)

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise self._too_slow() from error

    async def _open(self, find: Callable[[LoadWait], Awaitable[AsyncGenerator[str, None]]]) -> AsyncGenerator[str, None]:
        wait = LoadWait()
        return await open_stream(self._begin(find, wait), wait, self._told)

    async def _begin(
        self, find: Callable[[LoadWait], Awaitable[AsyncGenerator[str, None]]], wait: LoadWait
    ) -> AsyncGenerator[str, None]:
        async with self._time_limit():
            frames = await find(wait)
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
