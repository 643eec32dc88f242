"""Answers in Redis, bounded in number of bytes by the hub itself, so that a Redis shared with others is not filled."""

from collections.abc import Sequence

from aihub.cache.entry import decode_entry, encode_entry
from aihub.cache.scripts import DROP, LOOK_UP, PUT, RELEASE, RENEW
from aihub.cache.service import LEASE_S, NOT_KEPT_S, Lookup, LookupState
from aihub.cache.settings import CacheSettings
from aihub.core.cache import Cache

PREFIX = "aihub:{answers}:"
_ANSWER = PREFIX + "answer:"
_LEASE = PREFIX + "lease:"
_ORDER = PREFIX + "order"
_SIZES = PREFIX + "sizes"

ENTRY_OVERHEAD_BYTES = 400
"""What Redis needs for an answer beside its bytes: its key, and its rows in the index."""

_STATES: dict[bytes, LookupState] = {b"leader": "leader", b"held": "held", b"not_kept": "not_kept"}


class RedisAnswerStore:
    """Implements `aihub.cache.service.AnswerStore`.

    Answers that were unused for longest make room for new ones.

    Args:
        cache: Redis; whatever it does not answer in time counts as `unavailable`.
    """

    def __init__(self, cache: Cache, settings: CacheSettings) -> None:
        self._cache = cache
        self._settings = settings

    @property
    def is_enabled(self) -> bool:
        return self._settings.max_bytes > 0

    @property
    def max_entry_bytes(self) -> int:
        return self._settings.max_entry_bytes

    async def look_up(self, key: str, token: str) -> Lookup:
        reply = await self._cache.run(LOOK_UP, [_ANSWER + key, _LEASE + key, _ORDER], [key, token, _milliseconds(LEASE_S)])
        if not reply:
            return Lookup("unavailable")
        if reply[0] != b"hit":
            return Lookup(_STATES.get(reply[0], "unavailable"))
        pieces = decode_entry(key, reply[1])
        if pieces is not None:
            return Lookup("hit", pieces)
        if await self._cache.run(DROP, [_ANSWER + key, _ORDER, _SIZES], [key]) is None:
            return Lookup("unavailable")
        return await self.look_up(key, token)

    async def renew(self, key: str, token: str) -> None:
        await self._cache.run(RENEW, [_LEASE + key], [token, _milliseconds(LEASE_S)])

    async def put(self, key: str, token: str, pieces: Sequence[str], ttl_s: float, *, replaces: bool = False) -> None:
        data = encode_entry(key, pieces)
        if len(data) > self.max_entry_bytes:
            await self.release(key, token, is_not_kept=True)
            return
        size_bytes = len(data) + ENTRY_OVERHEAD_BYTES
        keys = [_ANSWER + key, _LEASE + key, _ORDER, _SIZES]
        limits: list[str | int] = [
            size_bytes,
            max(self._settings.max_bytes, size_bytes),
            int(replaces),
            _ANSWER,
            _milliseconds(ttl_s),
        ]
        await self._cache.run(PUT, keys, [key, token, data, *limits])

    async def release(self, key: str, token: str, *, is_not_kept: bool = False) -> None:
        await self._cache.run(RELEASE, [_LEASE + key], [token, _milliseconds(NOT_KEPT_S) if is_not_kept else 0])


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
