"""What each request costs in one process group: a meter that runs while there is something to measure."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context

from aihub.usage.apportionment import Apportionment, Share, Spent, TakenCosts
from aihub.usage.counters import Counters

logger = logging.getLogger(__name__)

PERIOD_S = 0.2


class CostMeter:
    """Measures one process group for the requests it works for. Used inside one event loop.

    This process's own time is read at each begin and end. Processes below it and cards are read each `period_s` while a call is
    in flight, twice more after the last has ended, and not at all at rest. What is split how: `Apportionment`.

    Args:
        counters: What is read.
        read_work: Returns what each request did since it was asked last, by work id; None where nobody knows.
        period_s: Of reading what costs more to read.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        counters: Counters,
        read_work: Callable[[], Awaitable[Mapping[str, float]]] | None = None,
        *,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._counters = counters
        self._read_work = read_work
        self._period_s = period_s
        self._clock = clock
        self._apportionment = Apportionment()
        self._own_s = counters.own_cpu_s()
        self._read_s = clock()
        self._others: Spent | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def unattributed(self) -> Spent:
        """What was used while nobody asked for anything."""
        return self._apportionment.unattributed

    @property
    def is_running(self) -> bool:
        """Whether something is in flight, or was a moment ago."""
        return self._task is not None and not self._task.done()

    def begin(self, work_id: str) -> Share:
        """Count a call of a request in; one request may have several at the same time."""
        self._add_own()
        if not self.is_running:
            self._apportionment.end_rest()
        share = self._apportionment.begin(work_id)
        if not self.is_running:
            # In a context of its own: that of the first request must not be taken for its own by what this one calls.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
        return share

    def end(self, share: Share) -> None:
        """Count a call out; call it for each that has begun, however it ended."""
        self._add_own()
        self._apportionment.end(share)

    @contextmanager
    def measured(self, work_id: str) -> Iterator[None]:
        """Count a call for the length of a block."""
        share = self.begin(work_id)
        try:
            yield
        finally:
            self.end(share)

    async def take(self, work_ids: Collection[str]) -> TakenCosts:
        """Return the costs of requests that have ended, each once; a request is pending for up to two periods after its end."""
        return self._apportionment.take(work_ids)

    async def _run(self) -> None:
        """Read until nothing is in flight; then the task ends, and the next call starts another."""
        await self._read_baseline()
        while self._apportionment.is_busy:
            await asyncio.sleep(self._period_s)
            await self._read()

    async def _read_baseline(self) -> None:
        """Leave what was used at rest to nobody."""
        others = await asyncio.to_thread(self._counters.read_others)
        if self._others is not None:
            self._apportionment.give_to_nobody(others.minus(self._others))
        # Work is not asked for: an engine that is busy already would answer after its step, whose work were lost then.
        self._others = others

    async def _read(self) -> None:
        work = await self._ask_work()
        others = await asyncio.to_thread(self._counters.read_others)
        self._add_own()
        self._apportionment.end_interval(others.minus(self._others or others), work)
        self._others = others

    async def _ask_work(self) -> Mapping[str, float] | None:
        if self._read_work is None:
            return None
        try:
            return await self._read_work()
        except Exception as error:  # noqa: BLE001  # an engine that dies raises what it likes; its last interval goes by time
            logger.info("The engine does not tell what it has done: %r", error)
            return None

    def _add_own(self) -> None:
        own_s, now_s = self._counters.own_cpu_s(), self._clock()
        self._apportionment.add_own(own_s - self._own_s, now_s - self._read_s)
        self._own_s, self._read_s = own_s, now_s
