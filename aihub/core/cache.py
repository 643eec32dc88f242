"""Redis as a cache that may vanish at any time."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.driver_info import DriverInfo
from redis.exceptions import RedisError

from aihub.core.health import PartHealth

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_PAUSE_S = 1.0
"""After a failure Redis is left alone for so long, so that its loss costs one request the timeout and not each."""


_GLOB = re.compile(r"[*?\[\]\\^]")
_SCANNED_AT_ONCE = 1000


class Cache:
    """Bytes by key with an expiry. A lost or slow Redis is a miss within `timeout_s`, never an error.

    Args:
        url: `redis://`, `rediss://` or `unix://`; with None every call is a miss.
        timeout_s: Longest wait for Redis.
    """

    def __init__(self, url: str | None, *, timeout_s: float = 0.25) -> None:
        self._timeout_s = timeout_s
        self._resume_at = 0.0
        self._problem: str | None = None
        self._client: redis.asyncio.Redis | None = None
        self._scripts: dict[str, AsyncScript] = {}
        if url is not None:
            self._client = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                retry=Retry(NoBackoff(), 1),
                # Built here once: each new connection would look its version up on the disk, in the event loop.
                driver_info=DriverInfo(),
            )

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()

    async def get(self, key: str) -> bytes | None:
        """Return the value, or None when it is not there or Redis does not answer in time."""
        if self._client is None or time.monotonic() < self._resume_at:
            return None
        value = await self._ask(self._client.get(key))
        return value if isinstance(value, bytes) else None

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for `ttl_s` seconds, if Redis likes to."""
        if self._client is not None and time.monotonic() >= self._resume_at:
            await self._ask(self._client.set(key, value, px=max(1, round(ttl_s * 1000))))

    async def delete(self, key: str) -> None:
        """Forget a value. While Redis is away this does nothing, so give every value an expiry you can live with."""
        if self._client is not None and time.monotonic() >= self._resume_at:
            await self._ask(self._client.delete(key))

    async def delete_prefix(self, prefix: str) -> bool:
        """Forget all values whose keys begin so; False when Redis does not answer, and what is left goes by its expiry."""
        if self._client is None:
            return True
        pattern, cursor = _GLOB.sub(r"\\\g<0>", prefix) + "*", 0
        while True:
            reply = await self._ask(self._client.scan(cursor, match=pattern, count=_SCANNED_AT_ONCE))
            if reply is None:
                return False
            cursor, keys = reply
            if keys and await self._ask(self._client.unlink(*keys)) is None:
                return False
            if not cursor:
                return True

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> list[Any] | None:
        """Run a Lua script, which answers with an array; None when Redis does not answer in time, or refuses."""
        if self._client is None or time.monotonic() < self._resume_at:
            return None
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        reply = await self._ask(self._scripts[script](keys=keys, args=arguments))
        return reply if isinstance(reply, list) else None

    async def check(self) -> PartHealth:
        """`ok`, or `degraded` with the reason. Never raises."""
        if self._client is None:
            return PartHealth("degraded", "no Redis is configured")
        await self._ask(self._client.ping())
        return PartHealth("ok") if self._problem is None else PartHealth("degraded", self._problem)

    async def _ask(self, question: Awaitable[Answer]) -> Answer | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await question
        except (RedisError, OSError, TimeoutError) as error:
            self._resume_at = time.monotonic() + _PAUSE_S
            problem = f"Redis does not answer: {str(error) or type(error).__name__}"
            if self._problem is None:
                logger.warning("%s; going on without a cache", problem)
            self._problem = problem
            return None
        if self._problem is not None:
            logger.warning("Redis answers again")
            self._problem = None
        return answer
