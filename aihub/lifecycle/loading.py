"""Bringing one model into memory: its turn, room, start."""

import asyncio

from aihub.errors import ConflictError, HubError, ModelUnavailableError
from aihub.lifecycle.board import Board
from aihub.lifecycle.room import Evict, Start, Wait, next_step, refuse_impossible, room_retry_s
from aihub.lifecycle.state import ModelRecord, ModelState
from aihub.lifecycle.transitions import Transitions


class Loader:
    """Runs loads; those of one device come one at a time, in the order they were asked for."""

    def __init__(self, board: Board, transitions: Transitions) -> None:
        self._board = board
        self._transitions = transitions

    def begin(self, record: ModelRecord) -> "asyncio.Task[HubError | None]":
        """Start loading unless that is under way; the task's result is the error, if any."""
        if record.load is None or record.load.done():
            record.give_up = False
            record.load = asyncio.create_task(self._load(record), name=f"load {record.model_id}")
            record.load.add_done_callback(lambda _: record.changed.notify())
            record.changed.notify()
        return record.load

    async def _load(self, record: ModelRecord) -> HubError | None:
        board = self._board
        try:
            async with board.lane(record.spec.device).turn:
                await self._make_ready(record)
        except HubError as error:
            record.is_restored = False
            return error
        return None

    async def _make_ready(self, record: ModelRecord) -> None:
        board = self._board
        lane = board.lane(record.spec.device)
        began_s = board.clock()
        while record.state is not ModelState.READY:
            waited_s = board.clock() - began_s
            if record.give_up:
                raise ConflictError(f"The load of {record.model_id!r} was taken back by an unload.")
            if record.state not in {ModelState.UNLOADED, ModelState.FAILED}:
                await board.changed.wait(board.policy.poll_s)  # it is being drained or stopped by somebody else
                continue
            live = await self._transitions.live_memory(record.spec.device)
            may_evict = not record.is_restored or record.waiting > 0
            step = next_step(record, board, live, waited_s=waited_s, may_evict=may_evict)
            if isinstance(step, Wait):
                if waited_s >= board.policy.room_timeout_s:
                    raise ModelUnavailableError(
                        f"{step.reason} Nothing became free in {waited_s:.0f} s.", retry_after_s=room_retry_s(record, board)
                    )
                await board.changed.wait(step.seconds)
            elif isinstance(step, Evict):
                await self._evict(step)
            else:
                async with lane.lock:
                    await self._start_if_room(record, waited_s)

    async def _start_if_room(self, record: ModelRecord, waited_s: float) -> None:
        """Start when there is still room now that the device is ours."""
        board = self._board
        if record.state is ModelState.FAILED and board.ledger.held_bytes(record.model_id):
            # An earlier stop failed; whatever is left of it goes first.
            if not await self._transitions.stop(record):
                raise ModelUnavailableError(f"The model {record.model_id!r} could not be stopped, so it cannot be loaded anew.")
        live = await self._transitions.live_memory(record.spec.device)
        is_free = record.state in {ModelState.UNLOADED, ModelState.FAILED} and not record.give_up
        if is_free and isinstance(next_step(record, board, live, waited_s=waited_s), Start):
            await self._transitions.start(record)

    async def _evict(self, step: Evict) -> None:
        victim = step.victim
        async with self._board.lane(victim.spec.device).lock:
            if victim.state is not ModelState.READY or victim.is_pinned:
                return
            if not step.is_patient and self._board.is_busy(victim):
                return
            if await self._transitions.drain(victim, is_patient=step.is_patient):
                if victim.is_pinned:
                    self._board.set_state(victim, ModelState.READY)
                else:
                    await self._transitions.stop(victim)

    def refuse_hopeless(self, record: ModelRecord) -> None:
        """Refuse at once what cannot be loaded now.

        Raises:
            ModelUnavailableError: It can never fit, or its last start failed and the time for another has not come.
        """
        refuse_impossible(record, self._board)
        failure = record.failure
        is_loading = record.load is not None and not record.load.done()
        if failure is None or is_loading or record.state is not ModelState.FAILED:
            return
        if self._board.clock() < failure.retry_at_s:
            raise ModelUnavailableError(
                f"The model {record.model_id!r} could not be loaded: {failure.reason}",
                retry_after_s=self._transitions.retry_after_s(record),
            )
