"""A fixed number of places, shared fairly between keys: who asks for many waits behind itself, not before others."""

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aihub.core.errors import RateLimitError

_MOST_RETRY_AFTER_S = 60
_WEIGHT = 0.2
"""Of the newest gap between two freed places, in the moving average of them."""


class QueueFullError(RateLimitError):
    """As many requests of this key wait as may."""

    code = "queue_full"


class FairQueue:
    """Places that callers take in turn, each under its key.

    A free place goes to the waiting key that holds the fewest, and among equals to the one whose last turn is the longest ago:
    keys with slow requests get no more than those with quick ones. Within a key the order is that of arrival.

    Args:
        places: How many are inside at a time.
        most_waiting: How many of one key may wait while no other key does; of k waiting keys each may have a k-th of it, and
            one at least. So a key that comes late finds room where another has filled the queue, and k keys have at most
            `most_waiting` times 1 + ln k waiting together, as long as k is no larger than it.
    """

    def __init__(self, places: int, most_waiting: int) -> None:
        self._places = places
        self._most_waiting = most_waiting
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        self._freed_s = 0.0
        self._gap_s = 0.0

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._taken

    @property
    def has_room(self) -> bool:
        """Whether `enter` would not wait."""
        return self._taken < self._places

    @property
    def waiting(self) -> int:
        """Callers that wait for one."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Hold a place while the block runs; raises as `enter`."""
        await self.enter(key)
        try:
            yield
        finally:
            self.leave(key)

    async def enter(self, key: str) -> None:
        """Wait for a place; whoever returns from this calls `leave` with the same key. One that is cancelled holds none.

        Raises:
            QueueFullError: As many of this key wait as may; `retry_after_s` by how fast places became free lately.
        """
        if self.has_room:  # nobody waits then
            self._take(key)
            return
        self._require_room(key)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(key)
            else:
                self._forget(key, turn)
            raise

    def leave(self, key: str) -> None:
        """Free a place."""
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        self._taken -= 1
        if self._waiting:
            self._measure()
        self._admit()

    def _take(self, key: str) -> None:
        self._held[key] += 1
        self._taken += 1

    def _admit(self) -> None:
        while self._waiting and self._taken < self._places:
            key = min(self._waiting, key=self._held.__getitem__)  # the first of equals, and who had a turn goes to the end
            queue = self._waiting.pop(key)
            turn = queue.popleft()
            if queue:
                self._waiting[key] = queue
            if not turn.done():  # one that was cancelled in this turn of the loop has not cleaned up yet
                self._take(key)
                turn.set_result(None)

    def _forget(self, key: str, turn: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(key)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[key]

    def _require_room(self, key: str) -> None:
        own = len(self._waiting.get(key, ()))
        keys = len(self._waiting) + (own == 0)
        if own < min(self._most_waiting, max(1, self._most_waiting // keys)):
            return
        wait_s = min(_MOST_RETRY_AFTER_S, max(1, math.ceil(keys * self._gap_s)))
        raise QueueFullError(
            f"{own} requests of this key wait already. Send fewer at a time, or retry in {wait_s} s.", retry_after_s=wait_s
        )

    def _measure(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._freed_s:
            self._gap_s += _WEIGHT * (now_s - self._freed_s - self._gap_s)
        self._freed_s = now_s
