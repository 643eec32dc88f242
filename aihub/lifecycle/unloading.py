"""Taking one model out of memory because somebody asks for it."""

import asyncio
import logging

from aihub.errors import ConflictError, ModelUnavailableError
from aihub.lifecycle.board import Board
from aihub.lifecycle.state import ModelRecord, ModelState, UnloadLevel
from aihub.lifecycle.transitions import Transitions

logger = logging.getLogger(__name__)


class Unloader:
    """Runs unloads to their end, also when the caller leaves: a model half unloaded would be of no use to anybody."""

    def __init__(self, board: Board, transitions: Transitions) -> None:
        self._board = board
        self._transitions = transitions
        self._tasks: set[asyncio.Task[None]] = set()

    async def unload(self, record: ModelRecord, level: UnloadLevel) -> None:
        """Return when the model sleeps or is gone; a load of it that waits for room is taken back.

        Raises:
            ConflictError: Its requests did not end in time.
            ModelUnavailableError: It could not be stopped.
        """
        task = asyncio.create_task(self._unload(record, level), name=f"unload {record.model_id}")
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Give up unloads under way; models stay as they are."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.info("%s did not succeed: %s", task.get_name(), error)  # the caller may have left

    async def _unload(self, record: ModelRecord, level: UnloadLevel) -> None:
        board = self._board
        record.give_up = True
        board.changed.notify()
        async with board.lane(record.spec.device).lock:
            if record.state is ModelState.READY and not await self._transitions.drain(record, is_patient=True):
                count = board.clients.in_flight(record.model_id)
                raise ConflictError(
                    f"The model {record.model_id!r} still answers {count or 'some'} requests. Try again when they have ended.",
                    param="model_id",
                )
            record.is_displaced = False
            if not await self._end(record, level):
                reason = record.failure.reason if record.failure else "unknown"
                raise ModelUnavailableError(f"The model {record.model_id!r} could not be unloaded: {reason}")

    async def _end(self, record: ModelRecord, level: UnloadLevel) -> bool:
        """Take a drained, sleeping or failed model out of memory; False when it stays."""
        if record.state is ModelState.DRAINING:
            return await self._transitions.unload(record, "requested", may_sleep=level == "sleep")
        is_asleep = record.state is ModelState.SLEEPING
        if self._board.ledger.held_bytes(record.model_id) == 0 or (is_asleep and level == "sleep"):
            return True
        return await self._transitions.stop(record, "requested")
