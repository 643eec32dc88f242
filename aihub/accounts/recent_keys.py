"""The keys that were looked up lately, and the one query at a time that looks up the rest.

A key is believed for `FRESH_S`, so that a revoked one is dead everywhere soon; while PostgreSQL is away, keys that it knew
within `KEPT_S` go on.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from aihub.accounts.tables.recognition import KnownKey, RecognitionTable
from aihub.core.errors import HubError, InternalError, OverloadedError, StorageUnavailableError

logger = logging.getLogger(__name__)

FRESH_S = 5.0
KEPT_S = 900.0
MOST_KEYS = 10_000
MOST_WAITING = 10_000
_MOST_IN_A_QUERY = 500
_AWAY_PAUSE_S = 2.0
"""After a failed query, before the next."""

_OPENNESS = ""
"""Asked like a prefix: whether no key was ever made."""

Value = TypeVar("Value")


class _Memory(Generic[Value]):
    """The newest values by prefix, at most `MOST_KEYS`."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[float, Value]] = {}

    def get(self, prefix: str) -> tuple[float, Value] | None:
        """Return when the value was learnt, and the value."""
        return self._values.get(prefix)

    def put(self, prefix: str, now_s: float, value: Value) -> None:
        self._values.pop(prefix, None)
        self._values[prefix] = (now_s, value)
        if len(self._values) > MOST_KEYS:
            del self._values[next(iter(self._values))]

    def forget(self, prefix: str) -> None:
        self._values.pop(prefix, None)


class RecentKeys:
    """What PostgreSQL said of keys, remembered.

    Args:
        table: Where the keys are.
        can_be_open: Whether the hub may go without keys at all, as one that only its own machine reaches.
        clock: Seconds that never go back.
    """

    def __init__(self, table: RecognitionTable, *, can_be_open: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._can_be_open = can_be_open
        self._clock = clock
        self._known: _Memory[KnownKey] = _Memory()
        # Apart from the known ones, which a flood of invented keys must not push out.
        self._unknown: _Memory[None] = _Memory()
        self._open_at_s: float | None = None
        self._away_until_s: float | None = None
        self._waiting: dict[str, asyncio.Future[HubError | None]] = {}
        self._work: asyncio.Task[None] | None = None

    async def find(self, prefix: str) -> tuple[KnownKey, float] | None:
        """Return the key with this prefix and its age in seconds; None when there is none.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer, and the key was not seen lately.
            OverloadedError: Too many keys wait to be looked up.
        """
        now_s = self._clock()
        if (unknown := self._unknown.get(prefix)) is not None and now_s - unknown[0] < FRESH_S:
            return None
        known = self._known.get(prefix)
        await self._refresh(prefix, None if known is None else known[0])
        known = self._known.get(prefix)
        return None if known is None else (known[1], self._clock() - known[0])

    async def is_open(self) -> bool:
        """Whether everybody may use the hub, as no key was ever made. Once closed, it stays so.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer, and did not say so lately.
            OverloadedError: Too many keys wait to be looked up.
        """
        if not self._can_be_open:
            return False
        await self._refresh(_OPENNESS, self._open_at_s)
        return self._can_be_open

    async def close(self) -> None:
        """Stop asking."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        while self._waiting:
            self._waiting.popitem()[1].set_result(StorageUnavailableError("The hub is stopping. Try again in a few seconds."))

    async def _refresh(self, prefix: str, learnt_at_s: float | None) -> None:
        """Wait until what is remembered of `prefix` may be used, asking PostgreSQL where it must be."""
        now_s = self._clock()
        age_s = float("inf") if learnt_at_s is None else now_s - learnt_at_s
        if age_s < FRESH_S / 2:
            return
        if self._away_until_s is not None and age_s < KEPT_S:
            if now_s >= self._away_until_s:
                self._ask(prefix)
            return
        if self._away_until_s is not None and now_s < self._away_until_s:
            raise StorageUnavailableError("The database does not answer, so keys cannot be checked. Try again in a few seconds.")
        asked = self._ask(prefix)
        if age_s < FRESH_S:
            return
        error = await asyncio.shield(asked)
        if error is not None and not (isinstance(error, StorageUnavailableError) and age_s < KEPT_S):
            raise error

    def _ask(self, prefix: str) -> "asyncio.Future[HubError | None]":
        if (asked := self._waiting.get(prefix)) is not None:
            return asked
        if len(self._waiting) >= MOST_WAITING:
            raise OverloadedError("Too many API keys wait to be checked. Try again in a second.")
        asked = self._waiting[prefix] = asyncio.get_running_loop().create_future()
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._look_up())
        return asked

    async def _look_up(self) -> None:
        while self._waiting:
            prefixes = list(self._waiting)[:_MOST_IN_A_QUERY]
            error: HubError | None = None
            try:
                await self._learn(prefixes)
                self._away_until_s = None
            except HubError as failed:
                error = failed
                self._away_until_s = self._clock() + _AWAY_PAUSE_S
            except Exception:  # a bug must reach those who wait, not leave them waiting
                logger.exception("Keys could not be looked up")
                error = InternalError("API keys cannot be checked.")
            for prefix in prefixes:
                self._waiting.pop(prefix).set_result(error)

    async def _learn(self, prefixes: list[str]) -> None:
        # What changes while the query runs counts as changed before it.
        now_s = self._clock()
        if self._can_be_open:
            self._can_be_open = not await self._table.is_any_made()
            self._open_at_s = now_s
        wanted = [prefix for prefix in prefixes if prefix != _OPENNESS]
        found = await self._table.find(wanted) if wanted else {}
        for prefix in wanted:
            if prefix in found:
                self._known.put(prefix, now_s, found[prefix])
                self._unknown.forget(prefix)
            else:
                self._known.forget(prefix)
                self._unknown.put(prefix, now_s, None)
