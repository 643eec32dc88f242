"""What trainings take of the memory that models are served from."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from aihub.core.errors import InvalidRequestError
from aihub.models.memory.admission import describe_fixed, find_shortage
from aihub.models.memory.ledger import gib
from aihub.models.memory.manager_state import ManagerState
from aihub.models.memory.state import ModelRecord, ModelState
from aihub.models.memory.training_eviction import RoomRequest, TrainingEviction
from aihub.models.memory.transitions import Transitions

logger = logging.getLogger(__name__)

STEP_WAIT_S = 2.0
"""How long one call waits for models that make room."""

STARTUP_S = 180.0
"""For so long a training may still take what it was promised; afterwards what it holds shows in live memory."""

CLAIM_TIMEOUT_S = 120.0
"""A training that had room before a restart of the hub loses it when nobody has asked for it by then."""


class TrainingTooLargeError(InvalidRequestError):
    """400 and not 409, which OpenAI's clients would try again."""

    code = "training_too_large"


class TrainingRoom:
    """One per lifecycle. A training takes its turn among the loads of the models' device, so no byte is given out twice.

    Either all models that are needed make room or none does: they are drained first and unloaded when the last of them is
    idle. Every `take` is followed by a `release` in the end, also where the training never got its room.

    Args:
        save: Writes down who is displaced and who has room, so that a restart of the hub knows.
    """

    def __init__(self, manager_state: ManagerState, transitions: Transitions, save: Callable[[], Awaitable[None]]) -> None:
        self._manager_state = manager_state
        self._transitions = transitions
        self._save = save
        self._eviction = TrainingEviction(manager_state, transitions, save)
        self._requests: dict[str, RoomRequest] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._taken_s: dict[str, float] = {}
        self._unclaimed: set[str] = set()
        self._started_s = manager_state.clock()

    @property
    def device(self) -> str:
        """Where models run, and trainings with them: `cpu` or `cuda:0`."""
        return self._manager_state.models_device

    def holders(self) -> set[str]:
        """Trainings that have room."""
        return {held.holder for held in self._manager_state.ledger.trainings(self.device)}

    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Trainings that have room, with their bytes, sorted."""
        return tuple(sorted((held.holder, held.size_bytes) for held in self._manager_state.ledger.trainings(self.device)))

    def refuse_impossible(self, size_bytes: int) -> None:
        """Refuse a training that does not fit, whatever is unloaded. May be called in any thread.

        Raises:
            TrainingTooLargeError: It is larger than the device's budget, or than what pinned models leave of it.
        """
        ledger, device = self._manager_state.ledger, self.device
        capacity = ledger.capacity_bytes(device)
        if size_bytes > capacity:
            raise TrainingTooLargeError(
                f"The training needs {gib(size_bytes)} on {device}, which has {gib(capacity)} for models and trainings"
                f"{describe_fixed(self._manager_state, device)}. Choose a smaller model, batch_size or max_tokens, qlora, or "
                "gradient_checkpointing."
            )
        pinned = [record for record in self._manager_state.pinned() if record.spec.device == device]
        left = capacity - sum(ledger.held_bytes(record.model_id, device) for record in pinned)
        if size_bytes > left:
            raise TrainingTooLargeError(
                f"The training needs {gib(size_bytes)} on {device}; pinned models "
                f"({', '.join(record.model_id for record in pinned)}) leave {gib(left)}. Unpin one of them."
            )

    async def take(self, holder: str, size_bytes: int, *, may_drain: bool) -> str | None:
        """Take room, or say in one sentence why there is none yet; ask again in some seconds.

        Idle models make room, those that were used least recently first: they sleep where that frees enough, else they are
        unloaded. That goes on when the caller leaves. A holder that has room keeps it, whatever its size is now.

        Args:
            holder: Shown to users, such as `training ftjob-1`.
            size_bytes: What the training takes at most.
            may_drain: Trainings come first: models in use make room too, once their requests have ended. Otherwise only
                those that nobody has used for a while, and a model that is asked for is loaded first.
        """
        if holder in self.holders():
            self._unclaimed.discard(holder)
            return None
        now_s = self._manager_state.clock()
        request = self._requests.setdefault(holder, RoomRequest(holder, size_bytes, may_drain, now_s))
        request.size_bytes, request.may_drain = size_bytes, may_drain
        task = self._tasks.get(holder)
        if task is None or task.done():
            if now_s < request.not_before_s:
                return request.reason
            request.reason = f"{self._wants(request)}; it waits for its turn, as models are being loaded or unloaded."
            task = self._tasks[holder] = asyncio.create_task(self._find_room(holder), name=f"room for {holder}")
        await asyncio.wait({task}, timeout=STEP_WAIT_S)
        if task.done():
            task.result()
        return None if holder in self.holders() else request.reason

    async def release(self, holder: str) -> None:
        """Give room back, or stop waiting for it; models that made room come back in the background."""
        self._withdraw(holder)
        self._forget(holder)
        await self._save()

    def adopt(self, holder: str, size_bytes: int) -> None:
        """Enter a training that runs already, within the budget or not."""
        self._withdraw(holder)
        self._unclaimed.discard(holder)
        self._manager_state.ledger.adopt(holder, self.device, size_bytes, is_training=True)
        self._manager_state.changed.notify()

    def restore(self, sizes: Iterable[tuple[str, int]]) -> None:
        """Enter trainings that had room before a restart: until they are taken, adopted or released, for a while."""
        for holder, size_bytes in sizes:
            self.adopt(holder, size_bytes)
            self._unclaimed.add(holder)
        self._started_s = self._manager_state.trainings_ended_s = self._manager_state.clock()

    def look(self) -> None:
        """Forget trainings that nobody knows any more, and count as used what started trainings were promised."""
        now_s = self._manager_state.clock()
        if self._unclaimed and now_s - self._started_s >= CLAIM_TIMEOUT_S:
            for holder in sorted(self._unclaimed):
                logger.warning("Nobody knows the %s after the restart; its memory is free again.", holder)
                self._forget(holder)
        for holder, taken_s in list(self._taken_s.items()):
            if now_s - taken_s >= STARTUP_S:
                del self._taken_s[holder]
                self._manager_state.ledger.observe(holder, self.device, None)

    async def close(self) -> None:
        """Stop looking for room; trainings keep theirs."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _withdraw(self, holder: str) -> None:
        if (request := self._requests.pop(holder, None)) is not None:
            request.is_withdrawn = True

    def _forget(self, holder: str) -> None:
        manager_state = self._manager_state
        self._unclaimed.discard(holder)
        self._taken_s.pop(holder, None)
        if (task := self._tasks.get(holder)) is not None and task.done():
            del self._tasks[holder]
        if manager_state.ledger.release(holder):
            manager_state.trainings_ended_s = manager_state.clock()
            manager_state.changed.notify()

    async def _find_room(self, holder: str) -> None:
        """Let models make room until the training has it or nobody else may go."""
        manager_state = self._manager_state
        device_lock = manager_state.device_lock(self.device)
        has_displaced = False
        async with device_lock.turn, device_lock.lock:
            while True:
                live = await self._transitions.memory.quietly_live(self.device)
                request = self._requests.get(holder)
                if request is None:  # released meanwhile
                    return
                if (reason := self._why_never(request)) is not None:
                    request.reason = reason
                    return
                wants, size_bytes = self._wants(request), request.size_bytes
                shortage_bytes, request.reason = find_shortage(wants, self.device, size_bytes, manager_state, live)
                if not request.may_drain and (queued := self._queued()):
                    request.reason = f"{wants}; the model {queued[0].model_id!r} is loaded first."
                elif shortage_bytes <= 0:
                    self._reserve(request)
                    await self._save()
                    return
                elif await self._eviction.make_room(request, shortage_bytes):
                    has_displaced = True
                    continue
                if has_displaced:
                    request.not_before_s = manager_state.clock() + manager_state.policy.room_timeout_s
                return

    def _reserve(self, request: RoomRequest) -> None:
        manager_state, holder = self._manager_state, request.holder
        manager_state.ledger.reserve(holder, self.device, request.size_bytes, is_training=True)
        manager_state.ledger.observe(holder, self.device, 0)
        self._taken_s[holder] = manager_state.clock()
        del self._requests[holder]
        manager_state.changed.notify()
        logger.info("The %s has %s of %s.", holder, gib(request.size_bytes), self.device)

    def _why_never(self, request: RoomRequest) -> str | None:
        """A model may have been pinned after the training was accepted."""
        try:
            self.refuse_impossible(request.size_bytes)
        except TrainingTooLargeError as error:
            return error.message
        return None

    def _queued(self) -> list[ModelRecord]:
        """Models of the device that are to be loaded or woken."""
        records = self._manager_state.records.values()
        return [record for record in records if record.spec.device == self.device and record.shown_state is ModelState.QUEUED]

    def _wants(self, request: RoomRequest) -> str:
        return f"The training needs {gib(request.size_bytes)} on {self.device}"
