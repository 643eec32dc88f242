"""What requests cost in the ingress and in the parts that worked for them, asked for once they have ended."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Protocol

from aihub.core.errors import HubError
from aihub.core.request_record import RequestRecord
from aihub.usage.apportionment import Share, Spent, TakenCosts
from aihub.usage.meter import CostMeter
from aihub.usage.service import Cost

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0
"""What a part that hangs would have told is lost."""


class MeteredPart(Protocol):
    """A connection to a metered deployment; `CostMeter.take` of a process itself has the same form."""

    async def take_costs(self, work_ids: Collection[str]) -> TakenCosts: ...


class RequestCosts:
    """Implements `aihub.usage.service.CostSource`. What a part has told is kept in the request's record until all have.

    A part is asked once at a time, and its answer is taken also when nobody waits for it any more: it tells each cost once.

    Args:
        meter: Of this process.
    """

    def __init__(self, meter: CostMeter) -> None:
        self.meter = meter
        self._shares: dict[str, Share] = {}
        self._wanted: dict[MeteredPart, dict[str, RequestRecord]] = {}
        self._asking: dict[MeteredPart, asyncio.Task[None]] = {}

    def begin(self, record: RequestRecord) -> None:
        """Count a request of this process in."""
        record.parts[self] = True
        self._shares[record.work_id] = self.meter.begin(record.work_id)

    def end(self, record: RequestRecord) -> None:
        """Count it out; one that was never counted in is left alone."""
        share = self._shares.pop(record.work_id, None)
        if share is not None:
            self.meter.end(share)

    async def take_costs(self, work_ids: Collection[str]) -> TakenCosts:
        """This process as a part of its requests."""
        return await self.meter.take(work_ids)

    async def costs(self, records: Sequence[RequestRecord]) -> Mapping[str, Cost]:
        """Return the costs of requests by their work id, those left out that a part has not told yet; see `CostSource`."""
        by_part: dict[MeteredPart, dict[str, RequestRecord]] = {}
        for record in records:
            for part in record.parts:
                by_part.setdefault(part, {})[record.work_id] = record
        await asyncio.gather(*(self._ask(part, asked) for part, asked in by_part.items()))
        return {record.work_id: _cost_of(record) for record in records if not record.parts}

    async def _ask(self, part: MeteredPart, records: Mapping[str, RequestRecord]) -> None:
        """Ask a part for these too; those who leave before it answers are told the next time."""
        self._wanted.setdefault(part, {}).update(records)
        task = self._asking.get(part)
        if task is None or task.done():
            task = self._asking[part] = asyncio.create_task(self._ask_while_wanted(part))
            task.add_done_callback(partial(self._forget, part))
        await asyncio.shield(task)

    def _forget(self, part: MeteredPart, task: "asyncio.Task[None]") -> None:
        if self._asking.get(part) is task:
            del self._asking[part]

    async def _ask_while_wanted(self, part: MeteredPart) -> None:
        while records := self._wanted.pop(part, None):
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    taken = await part.take_costs(list(records))
            except (HubError, TimeoutError) as error:
                logger.info("The cost of %d requests is not told: %r", len(records), error)
                continue
            for record in records.values():
                _settle(record, part, taken)


def _settle(record: RequestRecord, part: MeteredPart, taken: TakenCosts) -> None:
    """Note what a part has told of a request, and whether it has told all."""
    if part not in record.parts:
        return
    spent = taken.spent.get(record.work_id)
    if spent is None and not record.parts[part]:
        spent = Spent()  # refused or cancelled before it got there
    if spent is not None and record.work_id not in taken.pending:
        del record.parts[part]
    if spent is not None:
        _add(record, spent)


def _add(record: RequestRecord, spent: Spent) -> None:
    record.cpu_s = (record.cpu_s or 0.0) + spent.cpu_s
    record.gpu_s = (record.gpu_s or 0.0) + spent.gpu_s
    record.joules = (record.joules or 0.0) + spent.joules


def _cost_of(record: RequestRecord) -> Cost:
    # Without an energy counter nothing was measured; work on a card is never free.
    return Cost(record.cpu_s, record.gpu_s, record.joules or None)
