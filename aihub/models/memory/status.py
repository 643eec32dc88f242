"""What the lifecycle tells people of models and devices."""

from collections.abc import Iterable
from dataclasses import dataclass

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.host import DeviceMemory
from aihub.models.memory.ledger import Reservation
from aihub.models.memory.manager_state import RAM, ManagerState
from aihub.models.memory.state import IN_MEMORY, ModelRecord, ModelState


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model now. Times are Unix seconds.

    Attributes:
        need_bytes: What it is admitted for; `is_measured` says whether that is a measured high-water mark.
        used_bytes: What it was last seen to hold of its device.
        sleeping_bytes: RAM held for its weights while it sleeps, and from its first sleep until it ends.
        in_flight: Requests handed to it by live clients.
        waiting: Requests waiting for it.
        load_time_s: How long the last load took.
        tokens_per_s: Speed of one stream as clients saw it lately.
        failure: Why the last start or stop failed.
        retry_in_s: When requests are let through to a failed model again.
        is_default: Idle time alone does not unload it.
        is_starting: The load that a start of the hub began has not ended.
        fingerprint: Of the version in memory, else of the installed one; see `ModelSpec`.
    """

    model_id: str
    key: str
    digest: str
    state: ModelState
    device: str
    is_pinned: bool
    need_bytes: int
    is_measured: bool
    used_bytes: int | None
    sleeping_bytes: int
    context_tokens: int
    quantization: str | None
    in_flight: int
    waiting: int
    loaded_at: float | None
    last_used_at: float | None
    load_time_s: float | None
    tokens_per_s: float | None
    failure: str | None
    retry_in_s: float | None
    is_default: bool
    is_starting: bool
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device now.

    Attributes:
        budget_bytes: What the hub may take.
        reserved_bytes: What its holders may take.
        total_bytes: Of the device; None when nobody can tell.
        free_bytes: Live free memory.
    """

    device: str
    budget_bytes: int
    reserved_bytes: int
    total_bytes: int | None
    free_bytes: int | None
    holders: list[Reservation]


@dataclass(frozen=True, slots=True)
class LifecycleStatus:
    models: list[ModelStatus]
    devices: list[DeviceStatus]


def require_loaded(status: ModelStatus) -> ModelStatus:
    """Let a model pass that is in memory.

    Raises:
        ModelUnavailableError: It is not.
    """
    if status.state not in IN_MEMORY:
        raise ModelUnavailableError(f"The model {status.model_id!r} is not loaded. Load it first: POST /api/v1/models/load.")
    return status


def model_status(record: ModelRecord, manager_state: ManagerState) -> ModelStatus:
    failure, spec = record.failure, record.spec
    return ModelStatus(
        model_id=record.model_id,
        key=spec.key,
        digest=spec.digest,
        state=record.shown_state,
        device=spec.device,
        is_pinned=record.is_pinned,
        need_bytes=record.need_bytes,
        is_measured=record.is_measured,
        used_bytes=record.used_bytes,
        sleeping_bytes=manager_state.ledger.held_bytes(record.model_id, RAM) if spec.device != RAM else 0,
        context_tokens=spec.context_tokens,
        quantization=spec.quantization,
        in_flight=manager_state.clients.in_flight(record.model_id),
        waiting=record.waiting,
        loaded_at=record.loaded_at,
        last_used_at=record.used_at,
        load_time_s=record.load_time_s,
        tokens_per_s=record.tokens_per_s,
        failure=failure.reason if failure else None,
        retry_in_s=max(failure.retry_at_s - manager_state.clock(), 0.0) if failure else None,
        is_default=record.model_id in manager_state.default_models,
        is_starting=record.model_id in manager_state.starting,
        fingerprint=spec.fingerprint,
    )


def device_status(manager_state: ManagerState, live: Iterable[DeviceMemory]) -> list[DeviceStatus]:
    """Devices with a budget, in its order."""
    by_name = {memory.device: memory for memory in live}
    devices = []
    for device, budget_bytes in manager_state.ledger.budgets.items():
        holders = manager_state.ledger.holders(device)
        memory = by_name.get(device)
        devices.append(
            DeviceStatus(
                device=device,
                budget_bytes=budget_bytes,
                reserved_bytes=sum(held.size_bytes for held in holders),
                total_bytes=memory.total_bytes if memory else None,
                free_bytes=memory.free_bytes if memory else None,
                holders=holders,
            )
        )
    return devices
