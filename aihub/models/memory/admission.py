"""What has to happen before a model can start: nothing, an eviction, or waiting. Decides only; nothing is awaited here."""

import math
from dataclasses import dataclass

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.host import DeviceMemory
from aihub.models.memory.ledger import Reservation, gib
from aihub.models.memory.manager_state import ManagerState
from aihub.models.memory.state import IN_MEMORY, ModelRecord, ModelState

NEVER_RETRY_S = 3600
TRAINING_RETRY_S = 60
"""A training may end much later, but clients ignore longer times."""


@dataclass(frozen=True, slots=True)
class Start:
    """There is room."""


@dataclass(frozen=True, slots=True)
class Evict:
    """Unload this model first.

    Attributes:
        is_patient: Hold new requests back until those in flight have ended, as nothing else makes room.
        may_sleep: It may sleep instead of being stopped; False where what it would keep is needed too.
    """

    victim: ModelRecord
    is_patient: bool
    may_sleep: bool
    reason: str


@dataclass(frozen=True, slots=True)
class End:
    """End this sleeping model first: what it keeps is needed."""

    victim: ModelRecord
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again after a change, or after `seconds`."""

    reason: str
    seconds: float


Step = Start | Evict | End | Wait


def refuse_impossible(record: ModelRecord, manager_state: ManagerState) -> None:
    """Refuse a model that cannot fit, whatever is unloaded.

    Raises:
        ModelUnavailableError: It is larger than the device's budget, or than what pinned models and trainings leave of it.
    """
    ledger, device, need = manager_state.ledger, record.spec.device, record.need_bytes
    capacity = ledger.capacity_bytes(device)
    if need > capacity:
        others = describe_fixed(manager_state, device)
        raise ModelUnavailableError(
            f"The model {record.model_id!r} needs {gib(need)} on {device}, which has {gib(capacity)} for models{others}. "
            "Choose a smaller or quantised model, or a shorter context.",
            code="model_too_large",
            retry_after_s=NEVER_RETRY_S,
        )
    pinned = [other for other in manager_state.pinned() if other is not record]
    taken = sum(ledger.held_bytes(other.model_id, device) for other in pinned)
    names = ", ".join(other.model_id for other in pinned)
    if need > capacity - taken:
        raise ModelUnavailableError(
            f"The model {record.model_id!r} needs {gib(need)} on {device}; pinned models ({names}) leave "
            f"{gib(capacity - taken)}. Unpin one of them."
        )
    limit = manager_state.policy.max_concurrent_models
    if limit and len(pinned) >= limit:
        raise ModelUnavailableError(
            f"The model {record.model_id!r} cannot be loaded: {limit} models may be in memory and as many are pinned ({names}). "
            "Unpin one of them or raise MAX_CONCURRENT_MODELS."
        )
    trainings = ledger.trainings(device)
    left = capacity - taken - sum(held.size_bytes for held in trainings)
    if trainings and need > left and record.state not in IN_MEMORY:
        pins = f", pinned models ({names}) the rest" if pinned else ""
        raise ModelUnavailableError(
            f"The model {record.model_id!r} needs {gib(need)} on {device}, which has {gib(capacity)} for models: "
            f"{describe_holders(trainings)} until it ends{pins}. Try again later.",
            code="memory_held_by_training",
            retry_after_s=TRAINING_RETRY_S,
        )


def next_step(
    record: ModelRecord, manager_state: ManagerState, live: DeviceMemory | None, *, waited_s: float, may_evict: bool = True
) -> Step:
    """Say what to do next for a model that waits for room.

    Args:
        record: The model.
        manager_state: Everyone else.
        live: Memory of its device now; None when nobody can tell.
        waited_s: How long it has waited already.
        may_evict: False makes others' memory taboo (models brought back at a start).

    Raises:
        ModelUnavailableError: It can never fit as things are.
    """
    refuse_impossible(record, manager_state)
    shortage_bytes, reason = _shortage(record, manager_state, live)
    slots = _missing_slots(record, manager_state)
    if shortage_bytes <= 0 and slots <= 0:
        return Start()
    poll_s = manager_state.policy.poll_s
    # What is being unloaded comes back by itself.
    leaving = [other for other in manager_state.in_memory() if other.state is ModelState.UNLOADING]
    shortage_bytes -= sum(manager_state.ledger.held_bytes(other.model_id, record.spec.device) for other in leaving)
    slots -= len(leaving)
    if shortage_bytes <= 0 and slots <= 0:
        return Wait(reason, poll_s)
    if not may_evict:
        raise ModelUnavailableError(f"{reason} No other model is unloaded for it now.")
    victims, may_sleep = _choose_victims(record, manager_state, shortage_bytes, slots)
    if not victims:
        return Wait(reason, poll_s)
    sleepers = [victim for victim in victims if victim.state is ModelState.SLEEPING]
    if sleepers:
        return End(sleepers[0], reason)
    busy = [victim for victim in victims if manager_state.is_busy(victim)]
    if not busy:
        return Evict(victims[0], is_patient=False, may_sleep=may_sleep, reason=reason)
    if waited_s < manager_state.policy.patience_s:
        return Wait(reason, poll_s)
    return Evict(busy[0], is_patient=True, may_sleep=may_sleep, reason=reason)


def admission_retry_s(record: ModelRecord, manager_state: ManagerState) -> int:
    """When a refused model may find room: after the shortest residency of the others, at least some seconds."""
    others = [
        manager_state.residency_left_s(other)
        for other in manager_state.in_memory()
        if other is not record and not other.is_pinned
    ]
    return max(math.ceil(min(others, default=0.0)), 5)


def describe_fixed(manager_state: ManagerState, device: str) -> str:
    """Say what other parts of the hub hold for good, as ` after embeddings 1.0 GiB`; nothing where they hold nothing."""
    fixed = [f"{held.holder} {gib(held.size_bytes)}" for held in manager_state.ledger.holders(device) if held.is_fixed]
    return f" after {', '.join(fixed)}" if fixed else ""


def describe_holders(holders: list[Reservation]) -> str:
    """`training ftjob-1 holds 5.0 GiB and training ftjob-2 holds 1.0 GiB`."""
    return " and ".join(f"{held.holder} holds {gib(held.size_bytes)}" for held in holders)


def find_shortage(
    wants: str, device: str, need_bytes: int, manager_state: ManagerState, live: DeviceMemory | None
) -> tuple[int, str]:
    """Return what is missing in bytes and a sentence that says so; 0 and an empty one where nothing is.

    Args:
        wants: Begin of the sentence: who needs how much.
        need_bytes: What is to be taken in addition.
        live: Memory of the device now; None when nobody can tell.
    """
    ledger = manager_state.ledger
    budget_bytes = ledger.budget_shortage_bytes(device, need_bytes)
    live_bytes = ledger.live_shortage_bytes(device, need_bytes, live, manager_state.policy.live_margin_bytes)
    if live is not None and live_bytes > budget_bytes:
        trainings = ledger.trainings(device)
        held = f"; {describe_holders(trainings)}" if trainings else ""
        return live_bytes, f"{wants}, where {gib(live.free_bytes)} of {gib(live.total_bytes)} are free{held}."
    if budget_bytes:
        holders = ", ".join(f"{held.holder} {gib(held.size_bytes)}" for held in ledger.holders(device))
        return (
            budget_bytes,
            f"{wants}; {gib(max(ledger.free_bytes(device), 0))} of its budget are free, the rest is held by {holders}.",
        )
    return 0, ""


def _shortage(record: ModelRecord, manager_state: ManagerState, live: DeviceMemory | None) -> tuple[int, str]:
    device = record.spec.device
    need = record.need_bytes - manager_state.ledger.held_bytes(record.model_id, device)  # a sleeper keeps a part
    wants = f"The model {record.model_id!r} needs {gib(need)} on {device}"
    shortage_bytes, reason = find_shortage(wants, device, need, manager_state, live)
    return shortage_bytes, reason or f"{manager_state.policy.max_concurrent_models} models are in memory, which is the limit."


def _missing_slots(record: ModelRecord, manager_state: ManagerState) -> int:
    limit = manager_state.policy.max_concurrent_models
    others = sum(other is not record for other in manager_state.in_memory())
    return others + 1 - limit if limit else 0


def _choose_victims(
    record: ModelRecord, manager_state: ManagerState, shortage_bytes: int, slots: int
) -> tuple[list[ModelRecord], bool]:
    """Return who makes room, and whether the awake ones among them may sleep.

    Sleepers end where what they keep is enough, else awake models fall asleep, least recently used first, idle before
    busy, no more than needed. Where sleep would not free enough they are stopped; where that is not enough either,
    nobody has to go.
    """
    if manager_state.clock() < manager_state.drain_after_s:
        return [], True
    device = record.spec.device
    others = [other for other in manager_state.records.values() if other is not record]
    sleepers = [
        other
        for other in others
        if other.state is ModelState.SLEEPING and manager_state.ledger.held_bytes(other.model_id, device)
    ]
    # Those that are waited for are spared while others are enough.
    sleepers.sort(key=lambda other: (other.waiting > 0, other.used_s))
    awake = [
        other
        for other in others
        if other.state is ModelState.READY
        and not other.is_pinned
        and manager_state.residency_left_s(other) <= 0
        and (slots > 0 or other.spec.device == device)
    ]
    awake.sort(key=lambda other: (manager_state.is_busy(other), other.used_s))
    for may_sleep in (True, False):
        chosen = choose_least(sleepers + awake, device, manager_state, shortage_bytes, slots, may_sleep=may_sleep)
        if chosen:
            return chosen, may_sleep
    return [], True


def choose_least(
    candidates: list[ModelRecord],
    device: str,
    manager_state: ManagerState,
    shortage_bytes: int,
    slots: int,
    *,
    may_sleep: bool,
) -> list[ModelRecord]:
    """Return no more candidates than needed, earlier ones first; none at all when they would not be enough.

    Args:
        candidates: Those that may go.
        device: Where room is needed.
        shortage_bytes: How much.
        slots: How many models have to go in any case.
        may_sleep: Those that can sleep do so, and keep a little of the device.
    """

    def freed(other: ModelRecord) -> int:
        held_bytes = manager_state.ledger.held_bytes(other.model_id, device)
        falls_asleep = (
            may_sleep and other.state is ModelState.READY and other.spec.device == device and manager_state.may_sleep(other)
        )
        return max(held_bytes - manager_state.residual_bytes(other), 0) if falls_asleep else held_bytes

    def is_enough(chosen: list[ModelRecord]) -> bool:
        left_slots = sum(other.state is ModelState.READY for other in chosen)
        return sum(map(freed, chosen)) >= shortage_bytes and left_slots >= slots

    chosen: list[ModelRecord] = []
    for candidate in candidates:
        chosen.append(candidate)
        if is_enough(chosen):
            break
    if not is_enough(chosen):
        return []
    for candidate in chosen[::-1]:  # busy and recently used ones are spared first
        fewer = [other for other in chosen if other is not candidate]
        if is_enough(fewer):
            chosen = fewer
    return chosen
