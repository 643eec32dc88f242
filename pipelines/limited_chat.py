"""Chat within the limits of keys: tokens and streams are reserved before a model is asked and counted after it, in fair turns."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from aihub.accounts.service import RateLimiter, Reservation
from aihub.chat.completions import CompletionRequest
from aihub.chat.sampling import StreamOptions
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import EngineTimeoutError
from aihub.core.principal import Principal
from aihub.core.request_record import get_record
from pipelines.chat import ChatPipeline
from pipelines.fair_turn import FairTurn, current_turn
from pipelines.rag import RagPipeline
from pipelines.streamed_usage import StreamedUsage
from pipelines.token_estimate import TokenEstimate, estimate

Request = TypeVar("Request", ChatCompletionRequest, CompletionRequest)

_NOTHING = TokenEstimate(0, 0, 0)


class LimitedChat:
    """Implements `aihub.chat.service.ChatService` around a chat pipeline.

    What is reserved are the messages by an estimate, and the answer that the request asks for or the hub's usual one; it is
    corrected by the usage that the engine tells, which counts the chat template's own text, too. An answer that fails costs
    nothing. One that is cut off costs what was reserved, a stream its prompt and a token for each event sent; where it still
    waited for its turn, nothing.

    Args:
        usual_answer_tokens: Most tokens of an answer whose length the request does not limit.
    """

    def __init__(self, chat: ChatPipeline, limiter: RateLimiter, *, usual_answer_tokens: int) -> None:
        self._chat = chat
        self._limiter = limiter
        self._usual_answer_tokens = usual_answer_tokens

    def with_rag(self, rag: RagPipeline) -> "LimitedChat":
        """Return a chat of the same parts that finds its sources by `rag`."""
        return LimitedChat(self._chat.with_rag(rag), self._limiter, usual_answer_tokens=self._usual_answer_tokens)

    async def require(self, principal: Principal, request: ChatCompletionRequest) -> None:
        """Look for the model and the vector stores of a request; see `ChatPipeline.require`."""
        await self._chat.require(principal, request)

    async def chat(self, principal: Principal, request: ChatCompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `chat.completion` object.

        Raises:
            RateLimitError: The key has no tokens left, or too many requests of it wait for the model.
            HubError: Whatever the pipeline raises.
        """
        return await self._answer(principal, request, self._chat.chat)

    async def complete(self, principal: Principal, request: CompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `text_completion` object; raises as `chat`."""
        return await self._answer(principal, request, self._chat.complete)

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        """Open a stream as the pipeline does; it holds one of the key's streams until it is closed. Raises as `chat`."""
        return await self._open(principal, request, self._chat.open_chat_stream)

    async def open_complete_stream(self, principal: Principal, request: CompletionRequest) -> AsyncGenerator[str, None]:
        """Open a completion stream; as `open_chat_stream`."""
        return await self._open(principal, request, self._chat.open_complete_stream)

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        return await self._chat.models(principal)

    async def _answer(
        self, principal: Principal, request: Request, ask: Callable[[Principal, Request], Awaitable[dict[str, Any]]]
    ) -> dict[str, Any]:
        expected = self._estimate(principal, request)
        reservation = await self._limiter.reserve(principal, tokens=expected.stated, most_tokens=expected.most)
        turn = FairTurn(principal.key_id or "")
        token = current_turn.set(turn)
        used = 0
        try:
            answer = await ask(principal, request)
            used = (answer.get("usage") or {}).get("total_tokens", reservation.tokens)
            return answer
        except (asyncio.CancelledError, EngineTimeoutError):
            used = 0 if turn.is_waiting else reservation.tokens  # nobody knows how far the engine was
            if not turn.is_waiting:
                self._note_cut_off(request)
            raise
        finally:
            current_turn.reset(token)
            turn.close()
            reservation.settle(used)

    async def _open(
        self,
        principal: Principal,
        request: Request,
        open_stream: Callable[[Principal, Request], Awaitable[AsyncGenerator[str, None]]],
    ) -> AsyncGenerator[str, None]:
        expected = self._estimate(principal, request)
        reservation = await self._limiter.reserve(principal, tokens=expected.stated, most_tokens=expected.most, is_stream=True)
        turn = FairTurn(principal.key_id or "")
        usage = StreamedUsage(expected.prompt, is_wanted=request.wants_usage)
        token = current_turn.set(turn)
        try:
            frames = await open_stream(principal, request if principal.key_id is None else _telling_usage(request))
        except BaseException as error:
            is_cut_off = isinstance(error, asyncio.CancelledError) and not turn.is_waiting
            if is_cut_off:
                self._note_cut_off(request)
            turn.close()
            reservation.settle(expected.prompt if is_cut_off else 0)
            raise
        finally:
            current_turn.reset(token)
        relay = _relay(frames, usage, turn, reservation, partial(self._note_cut_off, request))
        # A generator that was never started runs no `finally` when closed, so it is brought to its first item here.
        await anext(relay)
        return relay

    def _estimate(self, principal: Principal, request: ChatCompletionRequest | CompletionRequest) -> TokenEstimate:
        if not self._limiter.limits_tokens(principal):
            return _NOTHING
        return estimate(request, usual_answer=self._usual_answer_tokens)

    def _note_cut_off(self, request: Request) -> None:
        get_record().note_cut_off(estimate(request, usual_answer=self._usual_answer_tokens).prompt)


def _telling_usage(request: Request) -> Request:
    """Return the request as one whose stream tells its usage, which limits and usage rows go by."""
    return request.model_copy(update={"stream_options": StreamOptions(include_usage=True)})


async def _relay(
    frames: AsyncGenerator[str, None],
    usage: StreamedUsage,
    turn: FairTurn,
    reservation: Reservation,
    note_cut_off: Callable[[], None],
) -> AsyncGenerator[str, None]:
    """Pass frames on, and settle when the stream ends or is closed; the first item is empty and comes at once."""
    try:
        async with aclosing(frames):
            yield ""
            async for frame in frames:
                if shown := usage.pass_on(frame):
                    yield shown
    except (GeneratorExit, asyncio.CancelledError):
        note_cut_off()
        raise
    finally:
        turn.close()
        reservation.settle(usage.tokens)
