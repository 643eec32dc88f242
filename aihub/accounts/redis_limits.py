"""What keys use, in Redis, where all replicas of the hub count together.

Windows are those of the library `limits`: its scripts run as functions inside the hub's own, so that requests, tokens, the day's
budget and streams are looked at and taken in one step and one round trip.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import redis.asyncio
from limits.aio.storage.redis.bridge import RedisBridge
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo

from aihub.accounts.windows import LimitsState, RequestWindow, TokenWindow
from aihub.core.principal import KeyLimits

LEASE_S = 60.0
"""A stream's place is free again so long after the death of the replica that held it."""

_CONNECTIONS = 8
_DAY_S = 86_400
_SCRIPTS = Path(__file__).parent / "redis_scripts"
_LIBRARY = {
    "acquire_moving_window": RedisBridge.SCRIPT_ACQUIRE_MOVING_WINDOW,
    "moving_window": RedisBridge.SCRIPT_MOVING_WINDOW,
    "acquire_sliding_window": RedisBridge.SCRIPT_ACQUIRE_SLIDING_WINDOW,
    "sliding_window": RedisBridge.SCRIPT_SLIDING_WINDOW,
}


@cache
def read_script(name: str) -> str:
    """Return a script of the hub with those of the library before it, each as a function of its KEYS and ARGV."""
    functions = [f"local function {function}(KEYS, ARGV)\n{_text(body)}\nend\n" for function, body in _LIBRARY.items()]
    return "".join(functions) + (_SCRIPTS / f"{name}.lua").read_text(encoding="utf-8")


def _text(body: str | bytes) -> str:
    return body.decode() if isinstance(body, bytes) else body


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request takes: requests (0 or 1), tokens, and a stream by the name of its lease."""

    requests: int = 0
    tokens: int = 0
    lease: str = ""


class RedisLimits:
    """Asks Redis; raises `RedisError`, `OSError` or `TimeoutError` where it does not answer.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: Longest wait for an answer.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        # A burst of requests waits a moment for a connection; opening one for each would take longer.
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),
            driver_info=DriverInfo(),
        )
        self._client = redis.asyncio.Redis.from_pool(pool)
        self._reserve = self._client.register_script(read_script("reserve"))
        self._settle = self._client.register_script(read_script("settle"))

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def take(self, key_id: str, limits: KeyLimits, wish: Wish) -> LimitsState:
        """Take all that is wished for, or nothing; one round trip."""
        most = (limits.requests_per_minute, limits.tokens_per_minute, limits.tokens_per_day, limits.streams)
        args: list[str | int | float] = [
            *(-1 if number is None else number for number in most),
            wish.requests,
            wish.tokens,
            wish.lease,
            LEASE_S,
        ]
        answer = await self._reserve(keys=_names(key_id, "requests", "tokens-before", "tokens", "day", "streams"), args=args)
        return _state(answer, limits)

    async def settle(self, key_id: str, limits: KeyLimits, wish: Wish, taken_at_s: float, used_tokens: int) -> None:
        """Count `used_tokens` in place of those taken, and give the stream back; one round trip."""
        counts = [int(wish.tokens > 0 and most is not None) for most in (limits.tokens_per_minute, limits.tokens_per_day)]
        args: list[str | int | float] = [used_tokens - wish.tokens, f"{taken_at_s:.6f}", wish.lease, *counts]
        await self._settle(keys=_names(key_id, "tokens-before", "tokens", "day", "streams"), args=args)

    async def recall(self, key_id: str, used_tokens: int) -> None:
        """Count what a key has used today beside what is counted, once a day for all replicas; one or two round trips."""
        day, recalled = _names(key_id, "day", "day-recalled")
        now_s, _ = await self._client.time()
        midnight_s = (now_s // _DAY_S + 1) * _DAY_S
        if used_tokens and await self._client.set(recalled, 1, nx=True, exat=midnight_s):
            await self._client.incrby(day, used_tokens)
            await self._client.expireat(day, midnight_s)

    async def renew(self, leases: dict[str, str]) -> None:
        """Hold streams for another `LEASE_S`, also those that Redis has forgotten; one round trip.

        Args:
            leases: Key ids by the name of the lease.
        """
        seconds, microseconds = await self._client.time()
        until_s = seconds + microseconds / 1e6 + LEASE_S
        async with self._client.pipeline(transaction=False) as pipeline:
            for lease, key_id in leases.items():
                (name,) = _names(key_id, "streams")
                pipeline.zadd(name, {lease: until_s})
                pipeline.expire(name, round(LEASE_S))
            await pipeline.execute()


def _names(key_id: str, *parts: str) -> list[str]:
    # In braces what must lie on one node of a cluster.
    return [f"aihub:limits:{{{key_id}}}:{part}" for part in parts]


def _state(answer: list[Any], limits: KeyLimits) -> LimitsState:
    refused, now, made, blocking, newest, before, before_ms, counted, counted_ms, day = answer
    at_s, blocking_s = float(now), float(blocking)
    is_full = limits.requests_per_minute is not None and made >= limits.requests_per_minute
    return LimitsState(
        refused=refused.decode() or None,
        at_s=at_s,
        requests=RequestWindow(made, at_s - float(newest), at_s - blocking_s if is_full else None),
        tokens=TokenWindow(int(before), max(0, before_ms) / 1000, int(counted), max(0, counted_ms) / 1000),
        day_tokens=day,
    )
