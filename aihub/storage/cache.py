"""Redis as a cache that may vanish at any time."""

from aihub.engines.base import PartHealth


class Cache:
    """Bytes by key with an expiry. A lost or slow Redis is a miss within `timeout_s`, never an error.

    Args:
        url: `redis://`, `rediss://` or `unix://`; with None every call is a miss.
        timeout_s: Longest wait for Redis.
    """

    def __init__(self, url: str | None, *, timeout_s: float = 0.25) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    async def get(self, key: str) -> bytes | None:
        raise NotImplementedError

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        raise NotImplementedError

    async def check(self) -> PartHealth:
        """`ok`, or `degraded` with the reason. Never raises."""
        raise NotImplementedError
