"""What keys use, in this process alone: bounds a flood while Redis is away. A day's tokens are not counted here."""

import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from aihub.accounts.redis_limits import Wish
from aihub.accounts.windows import WINDOW_S, LimitsState, Refusal, RequestWindow, TokenWindow
from aihub.core.principal import KeyLimits


class ReplicaLimits:
    """The same windows as in Redis, by the library's storage in memory; what they hold is gone within two minutes."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._requests = MovingWindowRateLimiter(self._storage)
        self._tokens = SlidingWindowCounterRateLimiter(self._storage)

    async def take(self, key_id: str, limits: KeyLimits, wish: Wish, open_streams: int) -> LimitsState:
        """Take all that is wished for, or nothing.

        Args:
            open_streams: Those that the key has in this process.
        """
        return LimitsState(
            refused=await self._take(key_id, limits, wish, open_streams),
            at_s=time.time(),
            requests=await self._request_window(key_id, limits.requests_per_minute),
            tokens=await self._token_window(key_id, limits.tokens_per_minute),
        )

    async def settle(self, key_id: str, limits: KeyLimits, wish: Wish, taken_at_s: float, used_tokens: int) -> None:
        """Count `used_tokens` in place of those taken."""
        if limits.tokens_per_minute is None or not wish.tokens:
            return
        key, difference = _tokens_per_minute(limits.tokens_per_minute).key_for(key_id), used_tokens - wish.tokens
        counted_at_s = taken_at_s if difference < 0 else time.time()
        _, window = self._storage.sliding_window_keys(key, WINDOW_S, counted_at_s)
        if difference > 0:
            await self._storage.incr(window, 2 * WINDOW_S, difference)
        elif await self._storage.get(window):
            await self._storage.decr(window, -difference)

    async def _take(self, key_id: str, limits: KeyLimits, wish: Wish, open_streams: int) -> Refusal | None:
        if wish.lease and limits.streams is not None and open_streams >= limits.streams:
            return "streams"
        if wish.requests and limits.requests_per_minute is not None:
            item = RateLimitItemPerMinute(limits.requests_per_minute, namespace="requests")
            if not await self._requests.hit(item, key_id):
                return "requests"
        if wish.tokens and limits.tokens_per_minute is not None:
            item = _tokens_per_minute(limits.tokens_per_minute)
            if not await self._tokens.hit(item, key_id, cost=wish.tokens):
                return "tokens"
        return None

    async def _request_window(self, key_id: str, most: int | None) -> RequestWindow:
        if not most:
            return RequestWindow()
        key = RateLimitItemPerMinute(most, namespace="requests").key_for(key_id)
        oldest_s, made = await self._storage.get_moving_window(key, most, WINDOW_S)
        newest_s, _ = await self._storage.get_moving_window(key, 1, WINDOW_S)
        now_s = time.time()
        return RequestWindow(made, now_s - newest_s, now_s - oldest_s if made >= most else None)

    async def _token_window(self, key_id: str, most: int | None) -> TokenWindow:
        if most is None:
            return TokenWindow()
        before, before_left_s, now, now_left_s = await self._storage.get_sliding_window(
            _tokens_per_minute(most).key_for(key_id), WINDOW_S
        )
        return TokenWindow(before, before_left_s, now, now_left_s)


def _tokens_per_minute(most: int) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(most, namespace="tokens")
