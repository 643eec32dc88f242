"""One answer on its way to all who asked for it: it is made once, and everybody follows at their own pace."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from aihub.core.errors import ModelUnavailableError
from aihub.core.request_record import CacheStatus, get_record


class Flight:
    """Makes an answer in a task of its own, so that it does not depend on who asked first; begins when it is made.

    It goes on as long as anybody follows; when the last one leaves before it is complete, it is cancelled.

    Args:
        make: Pushes the pieces and calls `complete`; nobody waits for what it does afterwards. What it raises, all get.
        max_chars: Up to so many, all pieces are held, and others may join. Beyond, nobody joins, pieces that all have got are let
            go, and `make` waits for the slowest follower.

    Attributes:
        status: What the first follower is told of the cache; set before the first piece.
    """

    def __init__(self, make: Callable[["Flight"], Awaitable[None]], *, max_chars: int) -> None:
        self._make = make
        self._max_chars = max_chars
        self._pieces: deque[str] = deque()
        self._dropped = 0
        self._held_chars = 0
        self._followers: set[Follower] = set()
        self._changed = asyncio.Event()
        self._is_complete = False
        self._error: Exception | None = None
        self.is_too_long = False
        self.status: CacheStatus = "miss"
        record = get_record()
        record.begin_work()  # it is on the record of who asked first, also when that one leaves
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(lambda _: record.end_work())

    @property
    def is_joinable(self) -> bool:
        """Whether whoever comes now gets the whole answer, as it is being made."""
        return not (self._is_complete or self.is_too_long or self.task.cancelling())

    @property
    def pieces(self) -> tuple[str, ...]:
        """All so far; not the first ones of an answer that is too long."""
        return tuple(self._pieces)

    def join(self) -> "Follower":
        """Follow from the first piece on. `leave` must be awaited at the end."""
        follower = Follower(self)
        self._followers.add(follower)
        return follower

    async def push(self, piece: str) -> None:
        """Add a piece; of an answer that is too long, once the slowest follower has caught up."""
        self._pieces.append(piece)
        self._held_chars += len(piece)
        self._notify()
        self.is_too_long = self.is_too_long or self._held_chars > self._max_chars
        while self.is_too_long and self._held_chars > self._max_chars:
            self._let_go()
            if self._held_chars > self._max_chars:
                await self._changed.wait()

    def complete(self) -> None:
        """Say that there are no more pieces."""
        self._is_complete = True
        self._notify()

    async def _run(self) -> None:
        try:
            await self._make(self)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling():  # type: ignore[union-attr]  # this is a task
                raise
            self._error = ModelUnavailableError("The answer was broken off. Try again.")
        except Exception as error:  # noqa: BLE001  # every follower is told
            self._error = error
        finally:
            self.complete()

    def _let_go(self) -> None:
        """Forget the pieces that every follower has got."""
        seen = min((follower.position for follower in self._followers), default=self._dropped + len(self._pieces))
        while self._dropped < seen:
            self._held_chars -= len(self._pieces.popleft())
            self._dropped += 1

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next(self, follower: "Follower") -> str | None:
        while follower.position == self._dropped + len(self._pieces):
            if self._is_complete:
                if self._error is not None:
                    raise self._error
                return None
            await self._changed.wait()
        piece = self._pieces[follower.position - self._dropped]
        follower.position += 1
        if self.is_too_long:
            self._notify()
        return piece

    async def _leave(self, follower: "Follower") -> None:
        self._followers.discard(follower)
        self._notify()
        if not self._followers and not self._is_complete:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


class Follower:
    """Whoever waits for a flight's pieces.

    Attributes:
        position: Pieces got so far.
    """

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self.position = 0

    async def next(self) -> str | None:
        """Wait for the next piece; None after the last one. Raises what the flight failed with."""
        return await self._flight._next(self)  # one thing in two classes

    async def leave(self) -> None:
        """Follow no more; when nobody else does, return once the making has stopped."""
        await self._flight._leave(self)
