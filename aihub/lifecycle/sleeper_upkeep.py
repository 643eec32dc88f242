"""The regular look at sleeping models: they end when they slept long, are outdated, woke by themselves or RAM is short."""

import logging

from aihub.errors import HubError
from aihub.lifecycle.board import Board
from aihub.lifecycle.host import ModelHost
from aihub.lifecycle.state import ModelRecord, ModelState
from aihub.lifecycle.transitions import Transitions
from aihub.telemetry.lifecycle_metrics import UnloadReason

logger = logging.getLogger(__name__)


class SleeperUpkeep:
    """Ends sleepers that have to go; those whose device is being changed are looked at the next time."""

    def __init__(self, board: Board, transitions: Transitions, host: ModelHost) -> None:
        self._board = board
        self._transitions = transitions
        self._host = host

    async def adopt(self, record: ModelRecord) -> bool:
        """Take over a running model that sleeps; False for one that is awake.

        One that does not say is stopped: as a sleeper it would get no request, taken for awake it would hold requests for
        ever.
        """
        if not self._board.may_sleep(record):
            return False
        try:
            is_asleep = await self._host.is_sleeping(record.model_id)
        except HubError as error:
            logger.warning("%s runs, but does not say whether it sleeps; it is stopped: %s", record.model_id, error.message)
            self._board.ledger.adopt(record.model_id, record.spec.device, record.need_bytes)
            await self._transitions.stop(record)
            return True
        if is_asleep:
            self._transitions.sleeping.enter_sleeping(record)
            record.is_displaced = record.model_id in self._board.default_models
            await self._transitions.sleeping.measure(record)
        return is_asleep

    async def look(self) -> None:
        """Look at every sleeper once."""
        board = self._board
        for record in [record for record in board.records.values() if record.state is ModelState.SLEEPING]:
            lane = board.lane(record.spec.device)
            if lane.lock.locked() or record.waiting:
                continue
            async with lane.lock:
                if record.state is not ModelState.SLEEPING:
                    continue
                if (reason := self._why_end(record)) is not None:
                    await self._transitions.sleeping.end(record, reason)
                elif await self._still_sleeps(record):
                    await self._transitions.sleeping.measure(record)
                else:
                    await self._transitions.stop(record)
        await self._transitions.sleeping.keep_ram_free()

    def _why_end(self, record: ModelRecord) -> UnloadReason | None:
        board = self._board
        if record.is_outdated:
            return "outdated"
        timeout_s = board.policy.sleep_timeout_s
        is_default = record.model_id in board.default_models
        if timeout_s > 0 and not is_default and board.clock() - record.asleep_s >= timeout_s:
            return "idle"
        return None

    async def _still_sleeps(self, record: ModelRecord) -> bool:
        """Whether the replica sleeps; one that was replaced is awake and takes memory that others have been given."""
        try:
            if await self._host.is_sleeping(record.model_id):
                return True
            reason = "it is awake, though nobody woke it"
        except HubError as error:
            reason = error.message
        logger.warning("%s was to sleep and is stopped: %s", record.model_id, reason)
        self._board.metrics.failures.labels(record.spec.device, "sleep").inc()
        return False
