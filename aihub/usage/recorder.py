"""Rows of ended requests on their way to PostgreSQL: taken in without waiting, written a little later in batches."""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aihub.core.errors import HubError, StorageUnavailableError
from aihub.core.request_record import RequestRecord
from aihub.usage.metrics import UsageMetrics
from aihub.usage.rows import UsageRow, row_of
from aihub.usage.service import Cost, CostSource
from aihub.usage.tables.usage_records import UsageTable

logger = logging.getLogger(__name__)

FLUSH_PERIOD_S = 0.5
RETRY_PERIOD_S = 1.0
"""Between two tries while PostgreSQL is away."""
BATCH_ROWS = 200
"""One statement; turning them into its parameters holds the event loop for about 4 ms."""
MAX_WAITING_ROWS = 20_000
"""About 20 MB; of more, the oldest are dropped and counted."""
ASK_TIMEOUT_S = 0.2
PRICE_TIMEOUT_S = 3.0
"""How long after its end a request's cost is asked for."""
CLEAN_PERIOD_S = 3600.0
CLEAN_ROWS = 5_000
CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Entry:
    record: RequestRecord
    row: UsageRow
    ended_s: float


class UsageRecorder:
    """Implements `aihub.usage.service.UsageSink`. Used inside one event loop.

    Args:
        table: Where rows go.
        metrics: Counts rows written, dropped and refused.
        days: Rows older than this are deleted, at most once an hour and while there is something to write.
        costs: Asked what requests cost before they are written, and for a while after.
    """

    def __init__(
        self, table: UsageTable, metrics: UsageMetrics | None = None, *, days: int, costs: CostSource | None = None
    ) -> None:
        self._table = table
        self._metrics = metrics or UsageMetrics()
        self._kept = timedelta(days=days)
        self.costs = costs
        self._queue: deque[_Entry] = deque()
        self._unpriced: deque[_Entry] = deque(maxlen=MAX_WAITING_ROWS)
        self._task: asyncio.Task[None] | None = None
        self._is_closing = asyncio.Event()
        self._last_at = datetime.min.replace(tzinfo=UTC)
        self._clean_at_s = float("-inf")

    def begin(self, record: RequestRecord) -> None:
        """Measure what a request uses; see `UsageSink`."""
        if self.costs is not None:
            self.costs.begin(record)

    def end(self, record: RequestRecord) -> None:
        """Measure it no more; see `UsageSink`."""
        if self.costs is not None:
            self.costs.end(record)

    def record(self, record: RequestRecord) -> None:
        """Take in an ended request, once all work for it has ended; see `UsageSink`."""
        record.when_worked(lambda: self._take(record))

    def _take(self, record: RequestRecord) -> None:
        loop = asyncio.get_running_loop()
        # Clients choose request ids, so the time alone must tell rows apart.
        self._last_at = max(datetime.now(UTC), self._last_at + timedelta(microseconds=1))
        self._queue.append(_Entry(record, row_of(record, self._last_at), loop.time()))
        self._drop_oldest()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run())

    async def close(self) -> None:
        """Write what waits, for at most `CLOSE_TIMEOUT_S`; what is left then is counted as dropped."""
        self._is_closing.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._queue:
            logger.warning("%d rows of usage were lost: PostgreSQL does not answer.", len(self._queue))
            self._metrics.rows.labels("dropped").inc(len(self._queue))
            self._queue.clear()

    async def _run(self) -> None:
        """Write until nothing waits; then the task ends, and the next request starts another."""
        period_s = FLUSH_PERIOD_S
        is_cleaning = False
        while self._queue or self._unpriced or is_cleaning:
            with suppress(TimeoutError):
                async with asyncio.timeout(period_s):
                    await self._is_closing.wait()
            try:
                await self._flush()
                await self._price()
                is_cleaning = await self._clean()
                period_s = FLUSH_PERIOD_S
            except HubError as error:
                logger.warning("%d rows of usage wait: %s", len(self._queue), error.message)
                period_s = RETRY_PERIOD_S
            if self._is_closing.is_set():
                return

    async def _flush(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH_ROWS, len(self._queue)))]
            known = await self._ask(batch)
            rows = [_priced(entry.row, known.get(entry.record.work_id)) for entry in batch]
            try:
                await self._table.insert(rows)
            except StorageUnavailableError:
                self._put_back(batch)
                raise
            except HubError:
                # Tried again, they would be refused for ever, and all after them.
                self._metrics.rows.labels("refused").inc(len(batch))
                raise
            except asyncio.CancelledError:
                self._put_back(batch)
                raise
            self._metrics.rows.labels("written").inc(len(batch))
            self._metrics.waiting.set(len(self._queue))
            if self.costs is not None:
                self._unpriced.extend(entry for entry in batch if entry.record.work_id not in known)

    async def _price(self) -> None:
        """Ask again for costs that were not known when their rows were written."""
        if not self._unpriced:
            return
        oldest_s = asyncio.get_running_loop().time() - PRICE_TIMEOUT_S
        entries, left = list(self._unpriced), []
        for start in range(0, len(entries), BATCH_ROWS):
            batch = entries[start : start + BATCH_ROWS]
            known = await self._ask(batch)
            await self._table.price([(e.row, known[e.record.work_id]) for e in batch if e.record.work_id in known])
            left += [e for e in batch if e.record.work_id not in known and e.ended_s > oldest_s]
        self._unpriced = deque(left, maxlen=MAX_WAITING_ROWS)

    async def _ask(self, batch: list[_Entry]) -> Mapping[str, Cost]:
        if self.costs is None:
            return {}
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await self.costs.costs([entry.record for entry in batch])
        except (TimeoutError, HubError) as error:
            logger.info("The cost of %d requests is not known yet: %r", len(batch), error)
            return {}

    async def _clean(self) -> bool:
        """Delete one batch of rows that are too old, if it is time; returns whether there may be more."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._clean_at_s:
            return False
        deleted = await self._table.delete_before(datetime.now(UTC) - self._kept, most=CLEAN_ROWS)
        if deleted == CLEAN_ROWS:
            return True
        self._clean_at_s = now_s + CLEAN_PERIOD_S
        return False

    def _put_back(self, batch: list[_Entry]) -> None:
        self._queue.extendleft(reversed(batch))
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        while len(self._queue) > MAX_WAITING_ROWS:
            self._queue.popleft()
            self._metrics.rows.labels("dropped").inc()
        self._metrics.waiting.set(len(self._queue))


def _priced(row: UsageRow, cost: Cost | None) -> UsageRow:
    if cost is None:
        return row
    return row._replace(cpu_s=cost.cpu_s, gpu_s=cost.gpu_s, joules=cost.joules)
