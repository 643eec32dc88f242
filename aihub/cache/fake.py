"""A store in memory for tests: the same promises on one process, and a switch to make it unavailable."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from aihub.cache.entry import decode_entry, encode_entry
from aihub.cache.service import LEASE_S, NOT_KEPT_S, Lookup
from aihub.cache.settings import CacheSettings
from aihub.cache.store import ENTRY_OVERHEAD_BYTES

_NOT_KEPT = "-"


class FakeAnswerStore:
    """Satisfies `aihub.cache.service.AnswerStore`.

    Args:
        clock: Monotonic seconds.

    Attributes:
        entries: Bytes and the time of their end by key, in the order of their last use.
        size_bytes: Of all, as Redis would count them.
        is_away: Whether everything is unavailable.
    """

    def __init__(self, settings: CacheSettings | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings or CacheSettings()
        self._clock = clock
        self.entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self.size_bytes = 0
        self._leases: dict[str, tuple[str, float]] = {}
        self.is_away = False

    @property
    def is_enabled(self) -> bool:
        return self._settings.max_bytes > 0

    @property
    def max_entry_bytes(self) -> int:
        return self._settings.max_entry_bytes

    async def look_up(self, key: str, token: str) -> Lookup:
        if self.is_away:
            return Lookup("unavailable")
        data, until_s = self.entries.get(key, (b"", 0.0))
        pieces = decode_entry(key, data) if until_s > self._clock() else None
        if pieces is not None:
            self.entries.move_to_end(key)
            return Lookup("hit", pieces)
        self._drop(key)
        holder = self._holder(key)
        if holder is None:
            self._leases[key] = (token, self._clock() + LEASE_S)
            return Lookup("leader")
        return Lookup("not_kept" if holder == _NOT_KEPT else "held")

    async def renew(self, key: str, token: str) -> None:
        if not self.is_away and self._holder(key) == token:
            self._leases[key] = (token, self._clock() + LEASE_S)

    async def put(self, key: str, token: str, pieces: Sequence[str], ttl_s: float, *, replaces: bool = False) -> None:
        data = encode_entry(key, pieces)
        await self.release(key, token, is_not_kept=len(data) > self.max_entry_bytes)
        if self.is_away or len(data) > self.max_entry_bytes or (not replaces and self._is_kept(key)):
            return
        self._drop(key)
        self.entries[key] = (data, self._clock() + ttl_s)
        self.size_bytes += len(data) + ENTRY_OVERHEAD_BYTES
        while self.size_bytes > self._settings.max_bytes and len(self.entries) > 1:
            self._drop(next(iter(self.entries)))

    async def release(self, key: str, token: str, *, is_not_kept: bool = False) -> None:
        if self.is_away or self._holder(key) != token:
            return
        del self._leases[key]
        if is_not_kept:
            self._leases[key] = (_NOT_KEPT, self._clock() + NOT_KEPT_S)

    def _drop(self, key: str) -> None:
        if key in self.entries:
            self.size_bytes -= len(self.entries.pop(key)[0]) + ENTRY_OVERHEAD_BYTES

    def _is_kept(self, key: str) -> bool:
        return key in self.entries and self.entries[key][1] > self._clock()

    def _holder(self, key: str) -> str | None:
        token, until_s = self._leases.get(key, (None, 0.0))
        return token if until_s > self._clock() else None
