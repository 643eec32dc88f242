"""Limits of keys: requests and tokens a minute, streams at a time, tokens a day; in Redis, in this process while that is away."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from redis.exceptions import RedisError

from aihub.accounts.limit_answers import add_limit_headers, refusal, too_large
from aihub.accounts.metrics import LimitMetrics
from aihub.accounts.redis_limits import LEASE_S, RedisLimits, Wish
from aihub.accounts.replica_limits import ReplicaLimits
from aihub.accounts.settings import LimitSettings
from aihub.accounts.windows import LimitsState
from aihub.core.concurrency import wait_to_end
from aihub.core.errors import HubError
from aihub.core.principal import KeyLimits, Principal

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0
"""After a failure Redis is left alone for so long, so that its loss costs one request the timeout and not each."""
_RENEW_S = LEASE_S / 3
_RECALL_TIMEOUT_S = 5.0


class _Taken:
    """Implements `aihub.accounts.service.Reservation`."""

    def __init__(self, limiter: "RateLimits", key_id: str, limits: KeyLimits, wish: Wish, at_s: float, *, in_redis: bool) -> None:
        self._limiter = limiter
        self._is_settled = False
        self.tokens = wish.tokens
        self.key_id, self.limits, self.wish, self.at_s, self.in_redis = key_id, limits, wish, at_s, in_redis

    def settle(self, used_tokens: int) -> None:
        if not self._is_settled:
            self._is_settled = True
            self._limiter.settle(self, used_tokens)


class _Unlimited:
    tokens = 0

    def settle(self, used_tokens: int) -> None:
        """There is nothing to count."""


_UNLIMITED = _Unlimited()


class RateLimits:
    """Implements `aihub.accounts.service.RateLimiter`.

    A request takes one round trip to Redis, one that answers with tokens a second, and what it has used is written behind its
    back. While Redis is away each replica counts alone, by the same numbers; the day's tokens are not counted then. A Redis that
    has lost the day's tokens, as the embedded one does at each start, is told them again beside the first request of a key.

    Args:
        used_today: Returns a key's tokens since midnight UTC, as they were written down elsewhere.
        redis_url: Without one each replica counts alone for ever.
        timeout_s: Longest wait for Redis.
    """

    def __init__(
        self,
        redis_url: str | None,
        settings: LimitSettings,
        metrics: LimitMetrics,
        *,
        timeout_s: float = 0.25,
        used_today: Callable[[str], Awaitable[int]] | None = None,
    ) -> None:
        self._redis = RedisLimits(redis_url, timeout_s=timeout_s) if redis_url is not None else None
        self._replica = ReplicaLimits()
        self._settings = settings
        self._metrics = metrics
        self._used_today = used_today
        self._timeout_s = timeout_s
        self._resume_at = 0.0
        self._is_away = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._leases: dict[str, str] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Write what is still to be counted, and close all connections."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._redis is not None:
            await self._redis.close()

    def limits_tokens(self, principal: Principal) -> bool:
        limits = self._limits_of(principal)
        return limits.tokens_per_minute is not None or limits.tokens_per_day is not None

    async def admit(self, principal: Principal) -> None:
        limits = self._limits_of(principal)
        if principal.key_id is None or (limits.requests_per_minute is None and limits.tokens_per_minute is None):
            return
        counted = int(limits.requests_per_minute is not None)
        state, _ = await self._take(principal.key_id, limits, Wish(requests=counted))
        add_limit_headers(limits, state)
        if state.refused is not None:
            self._metrics.refused.labels(state.refused).inc()
            raise refusal(limits, state, 0)

    async def reserve(
        self, principal: Principal, *, tokens: int = 0, most_tokens: int = 0, is_stream: bool = False
    ) -> _Taken | _Unlimited:
        limits = self._limits_of(principal)
        if principal.key_id is None:
            return _UNLIMITED
        wish = Wish(
            tokens=self._affordable(limits, tokens, most_tokens) if self.limits_tokens(principal) else 0,
            lease=uuid.uuid4().hex if is_stream and limits.streams is not None else "",
        )
        if not wish.tokens and not wish.lease:
            return _UNLIMITED
        # A caller that is cancelled meanwhile gives back what was taken for it.
        taking = asyncio.ensure_future(self._take(principal.key_id, limits, wish))
        cancelled = await wait_to_end(taking)
        state, in_redis = taking.result()
        add_limit_headers(limits, state)
        if state.refused is not None:
            self._metrics.refused.labels(state.refused).inc()
            raise cancelled or refusal(limits, state, wish.tokens)
        if in_redis and limits.tokens_per_day is not None and state.day_tokens == wish.tokens:
            self._later(self._recall(principal.key_id))  # nothing was counted before
        taken = _Taken(self, principal.key_id, limits, wish, state.at_s, in_redis=in_redis)
        if wish.lease:
            self._hold(wish.lease, principal.key_id)
        if cancelled is not None:
            taken.settle(0)
            raise cancelled
        return taken

    def settle(self, taken: _Taken, used_tokens: int) -> None:
        """Count what a reservation has come to, in a task of its own."""
        self._leases.pop(taken.wish.lease, None)
        self._later(self._settle(taken, used_tokens))

    def _limits_of(self, principal: Principal) -> KeyLimits:
        return self._settings.limits_of(principal.limits) if principal.key_id is not None else KeyLimits()

    def _affordable(self, limits: KeyLimits, tokens: int, most_tokens: int) -> int:
        """Return how many to reserve: what may be used, or all that the key may have where it did not ask for so much.

        Raises:
            RateLimitError: What was asked for never fits.
        """
        wanted = max(tokens, most_tokens)
        for most, period in ((limits.tokens_per_minute, "minute"), (limits.tokens_per_day, "day")):
            if most is not None and tokens > most:
                self._metrics.refused.labels("too_large").inc()
                raise too_large(tokens, most, period)
            wanted = wanted if most is None else min(wanted, most)
        return wanted

    async def _take(self, key_id: str, limits: KeyLimits, wish: Wish) -> tuple[LimitsState, bool]:
        """Return what was taken, and whether from Redis."""
        if self._redis is not None and time.monotonic() >= self._resume_at:
            try:
                async with asyncio.timeout(self._timeout_s):
                    state = await self._redis.take(key_id, limits, wish)
            except (RedisError, OSError, TimeoutError) as error:
                self._note_failure(error)
            else:
                self._note_answer()
                return state, True
        open_streams = sum(holder == key_id for holder in self._leases.values())
        if wish.lease:
            self._leases[wish.lease] = key_id  # at once, as others may be let in while this waits
        state = await self._replica.take(key_id, limits, wish, open_streams)
        if state.refused is not None:
            self._leases.pop(wish.lease, None)
        return state, False

    async def _settle(self, taken: _Taken, used_tokens: int) -> None:
        wish = taken.wish
        if not taken.in_redis:
            await self._replica.settle(taken.key_id, taken.limits, wish, taken.at_s, used_tokens)
            wish = Wish(lease=wish.lease)  # which Redis knows by now if it has come back
        if self._redis is not None and (wish.tokens or wish.lease) and time.monotonic() >= self._resume_at:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._redis.settle(taken.key_id, taken.limits, wish, taken.at_s, used_tokens)
            except (RedisError, OSError, TimeoutError) as error:
                self._note_failure(error)  # What was reserved stays counted, and the lease ends by itself.

    async def _recall(self, key_id: str) -> None:
        if self._used_today is None or self._redis is None:
            return
        try:
            async with asyncio.timeout(_RECALL_TIMEOUT_S):
                await self._redis.recall(key_id, await self._used_today(key_id))
        except (HubError, RedisError, OSError, TimeoutError) as error:
            logger.warning("What a key has used today could not be told to Redis: %s", str(error) or type(error).__name__)

    def _hold(self, lease: str, key_id: str) -> None:
        self._leases[lease] = key_id
        if self._redis is not None and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        """Keep the leases of open streams; ends with the last of them."""
        assert self._redis is not None  # noqa: S101  # `_hold` has looked
        await asyncio.sleep(_RENEW_S)
        while self._leases:
            leases = dict(self._leases)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._redis.renew(leases)
            except (RedisError, OSError, TimeoutError) as error:
                self._note_failure(error)
            else:
                self._note_answer()
                await self._drop_ended(leases)
            await asyncio.sleep(_RENEW_S)

    async def _drop_ended(self, renewed: dict[str, str]) -> None:
        """Give back what ended while it was being renewed."""
        for lease, key_id in renewed.items():
            if lease not in self._leases:
                await self._settle(_Taken(self, key_id, KeyLimits(), Wish(lease=lease), 0.0, in_redis=True), 0)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note_failure(self, error: Exception) -> None:
        self._resume_at = time.monotonic() + _PAUSE_S
        self._metrics.redis_is_away.set(1)
        if not self._is_away:
            self._is_away = True
            logger.warning(
                "Redis does not answer: %s; limits of keys are counted by each replica alone, and budgets of a day not at all",
                str(error) or type(error).__name__,
            )

    def _note_answer(self) -> None:
        if self._is_away:
            self._is_away = False
            self._metrics.redis_is_away.set(0)
            logger.warning("Redis answers again; limits of keys are counted there")
