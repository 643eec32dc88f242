"""Who is heard next: `Places`, held by each part of a file while a recogniser hears it."""

import asyncio
from dataclasses import dataclass
from types import TracebackType

_HEAD_START_S = 30.0
"""A first part goes before further ones that have waited less than this; those that wait longer are not overtaken for ever."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    turn: "asyncio.Future[None]"
    is_first: bool
    since_s: float


class Places:
    """At most `count` parts at a time, and one more that is the first of its file.

    So a short file, which is one part, begins beside any number of long ones. As an async context manager it is a place for
    a first part.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._firsts = 0
        self._further = 0
        self._waiting: list[_Waiting] = []

    async def acquire(self, *, is_first: bool) -> None:
        """Wait for a place; a caller who is cancelled has none."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop.create_future(), is_first, loop.time() - (_HEAD_START_S if is_first else 0.0))
        self._waiting.append(waiting)
        self._admit()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            else:
                self.release(is_first=is_first)
            raise

    def release(self, *, is_first: bool) -> None:
        """Give back a place that was acquired so."""
        self._count_in(-1, is_first=is_first)
        self._admit()

    async def __aenter__(self) -> None:
        await self.acquire(is_first=True)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release(is_first=True)

    def _admit(self) -> None:
        for waiting in sorted(self._waiting, key=lambda one: one.since_s):
            # One first part is not counted, so that it leaves its place to those of other files.
            counted = self._further + max(self._firsts - (not waiting.is_first), 0)
            if counted < self._count + waiting.is_first:
                self._count_in(1, is_first=waiting.is_first)
                self._waiting.remove(waiting)
                # One that is being cancelled gives it back.
                if not waiting.turn.done():
                    waiting.turn.set_result(None)

    def _count_in(self, number: int, *, is_first: bool) -> None:
        if is_first:
            self._firsts += number
        else:
            self._further += number
