"""Models that make room for a training."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aihub.models.memory.admission import choose_least
from aihub.models.memory.manager_state import ManagerState
from aihub.models.memory.state import ModelRecord, ModelState
from aihub.models.memory.transitions import Transitions


@dataclass(slots=True)
class RoomRequest:
    """A training that waits for room.

    Attributes:
        asked_s: Since when.
        not_before_s: Models that made room in vain are left alone until then.
        reason: Why it waits, for users.
        is_withdrawn: Nobody wants it any more.
    """

    holder: str
    size_bytes: int
    may_drain: bool
    asked_s: float
    not_before_s: float = 0.0
    reason: str = ""
    is_withdrawn: bool = False


class TrainingEviction:
    """Drains all models that are needed and unloads them when the last one is idle, so that either all make room or none.

    Callers hold the turn and the lock of the device.

    Args:
        save: Writes down who is displaced.
    """

    def __init__(self, manager_state: ManagerState, transitions: Transitions, save: Callable[[], Awaitable[None]]) -> None:
        self._manager_state = manager_state
        self._transitions = transitions
        self._save = save

    async def make_room(self, request: RoomRequest, shortage_bytes: int) -> bool:
        """Let models go that free enough together; False when all stay, with the reason in `request`."""
        manager_state = self._manager_state
        victims, may_sleep = self._choose_victims(request, shortage_bytes)
        busy = [record for record in victims if manager_state.is_busy(record)]
        if not victims:
            request.reason += f" {self._why_nobody_goes(request)}"
            return False
        if busy and manager_state.clock() - request.asked_s < manager_state.policy.patience_s:
            request.reason += f" The model {busy[0].model_id!r} answers requests; new ones are held back in a moment."
            return False
        names = ", ".join(record.model_id for record in victims)
        request.reason += f" These models make room: {names}."
        awake = [record for record in victims if record.state is ModelState.READY]
        try:
            # Busy ones first: those that are idle are then out of use for a short time only.
            for record in sorted(awake, key=lambda record: record not in busy):
                if not await self._transitions.drain(record, is_patient=record in busy, yields_to_requests=not request.may_drain):
                    request.reason += f" The model {record.model_id!r} is in use."
                    return False
            if not self._is_still_wanted(request, awake):
                request.reason += " One of them is needed again."
                return False
            await self._unload(victims, may_sleep=may_sleep)
        finally:
            for record in awake:
                if record.state is ModelState.DRAINING:
                    manager_state.set_state(record, ModelState.READY)
        return True

    def _is_still_wanted(self, request: RoomRequest, drained: list[ModelRecord]) -> bool:
        is_needed = any(record.is_pinned or (record.waiting and not request.may_drain) for record in drained)
        return not request.is_withdrawn and not is_needed

    async def _unload(self, victims: list[ModelRecord], *, may_sleep: bool) -> None:
        awake = [record for record in victims if record.state is ModelState.DRAINING]
        for record in awake:
            record.is_displaced = record.returns_after_training = True
        await self._save()  # before anything is unloaded: a kill in between must not lose them
        for record in victims:
            if record in awake:
                await self._transitions.unload(record, "evicted", may_sleep=may_sleep)
            else:
                await self._transitions.sleeping.end(record, "evicted")

    def _choose_victims(self, request: RoomRequest, shortage_bytes: int) -> tuple[list[ModelRecord], bool]:
        """Return who makes room, and whether the awake ones among them may sleep; nobody where all of them are not enough."""
        manager_state = self._manager_state
        if manager_state.clock() < manager_state.drain_after_s:
            return [], True
        device = manager_state.models_device
        on_device = [record for record in manager_state.records.values() if record.spec.device == device]
        sleepers = [record for record in on_device if record.state is ModelState.SLEEPING and not record.waiting]
        sleepers.sort(key=lambda record: record.used_s)
        awake = [record for record in on_device if self._may_go(record, request)]
        awake.sort(key=lambda record: (manager_state.is_busy(record), record.used_s))
        for may_sleep in (True, False):
            chosen = choose_least(sleepers + awake, device, manager_state, shortage_bytes, 0, may_sleep=may_sleep)
            if chosen:
                return chosen, may_sleep
        return [], True

    def _may_go(self, record: ModelRecord, request: RoomRequest) -> bool:
        manager_state = self._manager_state
        if record.state is not ModelState.READY or record.is_pinned or manager_state.residency_left_s(record) > 0:
            return False
        unused_s = manager_state.clock() - record.used_s
        is_idle = not record.waiting and not manager_state.is_busy(record) and unused_s >= manager_state.policy.training_idle_s
        return request.may_drain or is_idle

    def _why_nobody_goes(self, request: RoomRequest) -> str:
        idle_s = self._manager_state.policy.training_idle_s
        ready = "have been loaded for some time" if request.may_drain else f"have not been used for {idle_s:.0f} s"
        return f"It waits until other trainings end or models {ready}."
