"""Chat that answers the same question once: from Redis, or from an answer that is being made for somebody else.

docs/adr/0041-response-cache.md says what may be cached, and why nothing stale is ever given.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from aihub.cache.answers import kept_pieces
from aihub.cache.flight import Flight, Follower
from aihub.cache.service import RENEW_S, AnswerStore, Lookup, requested_cache_control
from aihub.chat.completions import CompletionRequest
from aihub.chat.routing import AUTO
from aihub.chat.sampling import CacheOptions
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import ChatService
from aihub.core.errors import ModelUnavailableError
from aihub.core.logging import add_response_header
from aihub.core.metrics import Metrics
from aihub.core.principal import Principal
from aihub.core.request_record import CacheStatus, get_record
from aihub.core.sse import comment
from pipelines.answer_basis import BasisFinder, ModelIdentity
from pipelines.answer_key import Request, answer_key

CACHE_HEADER = "x-aihub-cache"

FIRST_POLL_S = 0.02
LAST_POLL_S = 0.25
"""How often another replica is looked at that makes the answer; the pause doubles."""
COMMENT_PERIOD_S = 5.0
_TOO_MANY = 429

Pieces = AsyncGenerator[str, None]
Ask = Callable[[Any], Pieces]


@dataclass(frozen=True, slots=True)
class _Plan:
    """A request that may be answered from the cache.

    Attributes:
        request: As it is passed on: `auto` is replaced by the model that was chosen.
        is_refresh: Whether it is answered anew all the same, and its answer replaces the kept one.
    """

    key: str
    principal: Principal
    request: Request
    model: ModelIdentity
    ttl_s: float
    is_refresh: bool


class CachedChat:
    """Implements `aihub.chat.service.ChatService` around another one.

    Args:
        chat: Asked for what is not there.
        basis: Tells what answers rest on.
        ttl_s: How long answers are kept whose request names no time.
    """

    def __init__(self, chat: ChatService, basis: BasisFinder, store: AnswerStore, *, ttl_s: float, metrics: Metrics) -> None:
        self._chat = chat
        self._basis = basis
        self._store = store
        self._ttl_s = ttl_s
        self._metrics = metrics
        self._flights: dict[str, Flight] = {}

    async def close(self) -> None:
        """Stop making answers."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def chat(self, principal: Principal, request: ChatCompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `chat.completion` object, the same one to the same request; raises what the inner chat raises."""
        plan = await self._plan(principal, request)
        if plan is None:
            return await self._chat.chat(principal, request)
        return await self._answer(plan, partial(self._chat.chat, principal))

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        """Open a stream, the inner chat's or the same frames again; errors before the first one are raised here."""
        plan = await self._plan(principal, request)
        if plan is None:
            return await self._chat.open_chat_stream(principal, request)
        return await self._open(plan, partial(self._chat.open_chat_stream, principal))

    async def complete(self, principal: Principal, request: CompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `text_completion` object; as `chat`."""
        plan = await self._plan(principal, request)
        if plan is None:
            return await self._chat.complete(principal, request)
        return await self._answer(plan, partial(self._chat.complete, principal))

    async def open_complete_stream(self, principal: Principal, request: CompletionRequest) -> AsyncGenerator[str, None]:
        """Open a completion stream; as `open_chat_stream`."""
        plan = await self._plan(principal, request)
        if plan is None:
            return await self._chat.open_complete_stream(principal, request)
        return await self._open(plan, partial(self._chat.open_complete_stream, principal))

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        return await self._chat.models(principal)

    async def _plan(self, principal: Principal, request: Request) -> _Plan | None:
        """Return how the request is cached; None where it is not."""
        control = requested_cache_control.get()
        if not self._store.is_enabled or control == "no-store" or not may_be_cached(request):
            _tell("off")
            return None
        basis = await self._basis.find_basis(principal, request)
        if basis is None:
            _tell("off")
            return None
        key = await answer_key(principal.tenant_id, request, basis)
        if request.model == AUTO:
            request = request.model_copy(update={"model": basis.model.model_id})
        ttl_s = request.cache.ttl_s if isinstance(request.cache, CacheOptions) else None
        return _Plan(key, principal, request, basis.model, ttl_s or self._ttl_s, is_refresh=control == "no-cache")

    async def _answer(self, plan: _Plan, ask: Callable[[Any], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        async def pieces(request: Any) -> Pieces:
            yield json.dumps(await ask(request), ensure_ascii=False, separators=(",", ":"))

        follower, piece = await self._follow(plan, pieces)
        try:
            await follower.next()  # the end
        finally:
            await follower.leave()
        answer: dict[str, Any] = json.loads(piece)
        return answer

    async def _open(self, plan: _Plan, ask: Callable[[Any], Awaitable[Pieces]]) -> Pieces:
        async def pieces(request: Any) -> Pieces:
            async with aclosing(await ask(request)) as frames:
                async for frame in frames:
                    yield frame

        relay = _relay(*await self._follow(plan, pieces))
        # A generator that was never started runs no `finally` when closed.
        await anext(relay)
        return relay

    async def _follow(self, plan: _Plan, ask: Ask) -> tuple[Follower, str]:
        """Return a follower of the answer's flight with its first piece.

        When a flight fails before that, one of those who only followed makes the answer for the others: once if a part of the hub
        failed; after a refusal for too many requests, which may be due to the key of whoever led, until a leader is not refused.
        """
        has_seen_failure = False
        while True:
            flight = None if plan.is_refresh else self._flights.get(plan.key)
            is_first = flight is None or not flight.is_joinable
            if flight is None or is_first:
                flight = self._begin(plan, ask)
            follower = flight.join()
            try:
                piece = await follower.next()
                if piece is None:
                    raise ModelUnavailableError("The engine closed without an answer. Try again.")
            except BaseException as error:
                await follower.leave()
                status = getattr(error, "status", None)
                if is_first or status is None or (status < 500 and status != _TOO_MANY) or has_seen_failure:
                    raise
                has_seen_failure = status >= 500
                continue
            self._note(plan, flight.status if is_first or flight.status == "off" else "hit")
            return follower, piece

    def _begin(self, plan: _Plan, ask: Ask) -> Flight:
        flight = Flight(partial(self._make, plan, ask), max_chars=self._store.max_entry_bytes)
        if not plan.is_refresh:
            self._flights[plan.key] = flight
            flight.task.add_done_callback(lambda _: self._end(plan.key, flight))
        return flight

    def _end(self, key: str, flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _make(self, plan: _Plan, ask: Ask, flight: Flight) -> None:
        """Push the answer's pieces: the kept ones, or new ones, which are kept."""
        token = secrets.token_hex(8)
        found = Lookup("not_kept") if plan.is_refresh else await self._look_up(plan, token, flight)
        if found.state == "hit":
            flight.status = "hit"
            for piece in found.pieces:
                await flight.push(piece)
            return
        flight.status = "off" if found.state == "unavailable" else "miss"
        if found.state == "leader":
            await self._lead(plan, ask, flight, token)
            return
        await self._ask(plan, ask, flight)
        if plan.is_refresh and (pieces := await self._kept(plan, flight)) is not None:
            await self._store.put(plan.key, token, pieces, plan.ttl_s, replaces=True)

    async def _lead(self, plan: _Plan, ask: Ask, flight: Flight, token: str) -> None:
        """Make the answer that other replicas may wait for; the lease is given back at the end, whatever that is."""
        renewal = asyncio.create_task(self._renew(plan.key, token))
        try:
            await self._ask(plan, ask, flight)
            pieces = await self._kept(plan, flight)
        except BaseException:
            await self._store.release(plan.key, token)
            raise
        finally:
            renewal.cancel()
        if pieces is None:
            await self._store.release(plan.key, token, is_not_kept=True)
        else:
            await self._store.put(plan.key, token, pieces, plan.ttl_s)

    async def _renew(self, key: str, token: str) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._store.renew(key, token)

    async def _look_up(self, plan: _Plan, token: str, flight: Flight) -> Lookup:
        """Look for the answer, and wait while another replica makes it; a stream tells its client so from time to time."""
        found = await self._store.look_up(plan.key, token)
        pause_s, waited_s, told_s = FIRST_POLL_S, 0.0, 0.0
        while found.state == "held":
            await asyncio.sleep(pause_s)
            waited_s += pause_s
            pause_s = min(2 * pause_s, LAST_POLL_S)
            if plan.request.stream and waited_s - told_s >= COMMENT_PERIOD_S:
                told_s = waited_s
                flight.status = "hit"
                await flight.push(comment(f"waiting for the same answer, {int(waited_s)} s"))
            found = await self._store.look_up(plan.key, token)
        return found

    async def _ask(self, plan: _Plan, ask: Ask, flight: Flight) -> None:
        async with aclosing(ask(plan.request)) as pieces:
            async for piece in pieces:
                await flight.push(piece)
        flight.complete()

    async def _kept(self, plan: _Plan, flight: Flight) -> tuple[str, ...] | None:
        """Return what is to be kept of a finished answer: nothing when the model has changed while it was made."""
        if flight.is_too_long:
            return None
        pieces = kept_pieces(flight.pieces, is_stream=bool(plan.request.stream))
        if pieces is None or not await self._basis.is_still(plan.principal, plan.request.model, plan.model):
            return None
        return pieces

    def _note(self, plan: _Plan, status: CacheStatus) -> None:
        _tell(status)
        self._metrics.cache_lookups.labels("answers", "unavailable" if status == "off" else status).inc()
        if status == "hit":
            record = get_record()
            record.model, record.provider = plan.model.model_id, plan.model.provider


def may_be_cached(request: Request) -> bool:
    """Whether the same answer may be given again: when the client says so, or would get the same one anyway.

    Media are not looked into.
    """
    if request.cache is False or isinstance(request, ChatCompletionRequest) and request.has_media:
        return False
    is_asked = request.cache is not None
    return is_asked or 0 in (request.temperature, request.top_p) or request.top_k == 1 or request.seed is not None


def _tell(status: CacheStatus) -> None:
    add_response_header(CACHE_HEADER, status)
    get_record().cache = status


async def _relay(follower: Follower, first: str) -> Pieces:
    """Yield the pieces of a flight; the item before them is empty and comes at once."""
    try:
        yield ""
        piece: str | None = first
        while piece is not None:
            yield piece
            piece = await follower.next()
    finally:
        await follower.leave()
