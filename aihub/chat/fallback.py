"""Trying one engine after the other, before the first byte only, and saying in the answer which one gave it."""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from aihub.chat.service import ChatEngine, ChatModelInfo, hold, images_of
from aihub.core.errors import HubError, ModelUnavailableError
from aihub.core.health import PartHealth
from aihub.core.logging import add_response_header
from aihub.core.sse import data_event, events, payload

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PROVIDER_HEADER = "x-aihub-provider"
FALLBACK_HEADER = "x-aihub-fallback-from"

_TOO_MANY = 429
_GONE = 410


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine to try.

    Attributes:
        model_id: The name clients know the model by.
        open: Finds the engine; its errors count like the engine's.
    """

    provider: str
    model_id: str
    open: Callable[[], Awaitable[ChatEngine]]


def may_fall_back(error: HubError) -> bool:
    """Whether another engine may do better: not for a request that is wrong everywhere."""
    return error.status >= 500 or error.status in {_TOO_MANY, _GONE}


class FallbackEngine:
    """Asks its candidates in order; satisfies `ChatEngine`. One instance serves one request.

    Every answer carries `"aihub": {"provider", "model", "fallback_from": [{"provider", "model", "code"}, ..]}`; a stream has
    it in its first chunk. Once a stream has begun, its errors end it: no text is ever said twice.
    """

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        if not candidates:
            raise ValueError("at least one candidate is needed")
        self._candidates = list(candidates)
        self._failed: list[dict[str, str]] = []
        self._opened: dict[Candidate, ChatEngine] = {}
        self._held: ExitStack | None = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold each candidate from when it is first asked; see `aihub.chat.service.hold`."""
        with ExitStack() as held:
            for engine in self._opened.values():
                held.enter_context(hold(engine))
            self._held = held
            try:
                yield
            finally:
                self._held = None

    async def model_info(self) -> ChatModelInfo:
        return await self._first(lambda engine: engine.model_info())

    async def choose(self, images: int) -> ChatModelInfo:
        """Return the model that answers a request with so many images; stand-ins that cannot take them are passed over.

        The model that was asked for is returned whatever it takes: what it cannot is the request's fault.
        """
        return await self._first(lambda engine: self._stand_in_for(engine, images))

    async def health(self) -> PartHealth:
        return await self._first(lambda engine: engine.health())

    async def count_tokens(self, body: dict[str, Any]) -> int:
        return await self._first(lambda engine: _count_tokens(engine, body))

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._first(lambda engine: _chat(engine, body))
        return self._marked(answer)

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._first(lambda engine: engine.complete(body))
        return self._marked(answer)

    def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        return self._stream(lambda engine: _stream_chat(engine, body))

    def stream_complete(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        return self._stream(lambda engine: engine.stream_complete(body))

    async def _first(self, ask: Callable[[ChatEngine], Awaitable[Result]]) -> Result:
        """Return what the first candidate that can says. One that failed is out for the rest of the request.

        Raises:
            HubError: Of the last candidate, or one that is the request's own fault.
        """
        while True:
            candidate = self._candidates[0]
            try:
                return await ask(await self._open(candidate))
            except HubError as error:
                self._give_up(candidate, error)

    async def _stand_in_for(self, engine: ChatEngine, images: int) -> ChatModelInfo:
        model_info = await engine.model_info()
        if self._failed:
            _require_images(model_info, images)
        return model_info

    async def _open(self, candidate: Candidate) -> ChatEngine:
        if candidate not in self._opened:
            engine = await candidate.open()
            if candidate not in self._opened:  # another call of this request may have been faster
                if self._held is not None:
                    self._held.enter_context(hold(engine))
                self._opened[candidate] = engine
        return self._opened[candidate]

    async def _stream(self, ask: Callable[[ChatEngine], AsyncGenerator[str, None]]) -> AsyncGenerator[str, None]:
        first, frames = await self._first(lambda engine: _begin(ask(engine)))
        async with aclosing(frames):
            yield self._marked_frame(first)
            async for frame in frames:
                yield frame

    def _give_up(self, candidate: Candidate, error: HubError) -> None:
        if not may_fall_back(error):
            raise error
        if candidate is not self._candidates[0]:
            return  # Another call of this request has given it up meanwhile.
        if len(self._candidates) == 1:
            raise error
        self._candidates.pop(0)
        self._failed.append({"provider": candidate.provider, "model": candidate.model_id, "code": error.code})
        told = {"from": candidate.model_id, "to": self._candidates[0].model_id, "code": error.code}
        logger.warning("A model did not answer; another one is asked.", extra={"fields": told})

    def _marked(self, answer: dict[str, Any]) -> dict[str, Any]:
        candidate = self._candidates[0]
        add_response_header(PROVIDER_HEADER, candidate.provider)
        if self._failed:
            add_response_header(FALLBACK_HEADER, ", ".join(f"{failed['model']} ({failed['code']})" for failed in self._failed))
        own = answer.get("aihub")
        origin = own if isinstance(own, dict) else {"provider": candidate.provider, "model": str(answer.get("model"))}
        return answer | {"aihub": origin | {"fallback_from": list(self._failed)}}

    def _marked_frame(self, frame: str) -> str:
        first, *rest = events(frame)
        chunk = payload(first)
        return frame if chunk is None else data_event(self._marked(chunk)) + "".join(rest)


async def _count_tokens(engine: ChatEngine, body: dict[str, Any]) -> int:
    await _require_sight(engine, body)
    return await engine.count_tokens(body)


async def _chat(engine: ChatEngine, body: dict[str, Any]) -> dict[str, Any]:
    await _require_sight(engine, body)
    return await engine.chat(body)


async def _stream_chat(engine: ChatEngine, body: dict[str, Any]) -> AsyncGenerator[str, None]:
    await _require_sight(engine, body)
    async with aclosing(engine.stream_chat(body)) as frames:
        async for frame in frames:
            yield frame


async def _require_sight(engine: ChatEngine, body: dict[str, Any]) -> None:
    """Pass over a stand-in that cannot take the images which were made ready for another model; raises as `_require_images`."""
    if count := len(images_of(body)):
        _require_images(await engine.model_info(), count)


def _require_images(model_info: ChatModelInfo, count: int) -> None:
    """Pass over a stand-in that cannot take so many images.

    Raises:
        ModelUnavailableError: It cannot; the next candidate may.
    """
    if count > model_info.max_images:
        raise ModelUnavailableError(
            f"The model {model_info.model_id} reads at most {model_info.max_images} images in one request, so it cannot stand in "
            f"for the one that was asked to read {count}. Retry in a few seconds.",
            code="model_reads_no_images",
        )


async def _begin(frames: AsyncGenerator[str, None]) -> tuple[str, AsyncGenerator[str, None]]:
    try:
        return await anext(frames), frames
    except StopAsyncIteration as end:
        raise ModelUnavailableError("The engine closed without an answer. Try again.") from end
    except BaseException:
        await frames.aclose()
        raise
