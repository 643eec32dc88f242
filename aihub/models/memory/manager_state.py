"""What all parts of the manager share: the models, the clients, the clock, and the policy by which models come and go."""

import asyncio
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import partial

from aihub.models.memory.host import ModelSpec
from aihub.models.memory.ledger import MemoryLedger
from aihub.models.memory.requirement import MIB
from aihub.models.memory.state import IN_MEMORY, ClientReports, Directory, ModelRecord, ModelState, ReadyModel, Signal
from aihub.models.metrics import LifecycleMetrics


@dataclass(frozen=True, slots=True)
class LifecyclePolicy:
    """All times in seconds.

    Attributes:
        unload_timeout_s: A model idle for this long is unloaded; 0 keeps it until room is needed.
        sleep_timeout_s: A model asleep for this long is ended; 0 lets it sleep until RAM is needed.
        max_concurrent_models: Models awake at most, whatever their size; 0 is no limit.
        min_residency_s: A model stays at least this long once ready, so that alternating requests do not thrash.
        max_waiting_requests: Requests that may wait for models in all; further ones are refused at once.
        wait_timeout_s: Longest wait of one request for its model.
        room_timeout_s: Longest wait of one load for memory that others still use.
        patience_s: How long a load waits for a busy model to become idle by itself before new requests to it are held back.
        drain_timeout_s: Longest time new requests are held back for requests in flight to end.
        settle_s: A model used within this time counts as busy: a request may be on its way to it.
        training_idle_s: A model used within this time does not make room for a training, unless trainings come first.
        start_timeout_s: Longest start of a model.
        stop_timeout_s: Longest stop of a model.
        sleep_change_timeout_s: Longest time a model takes to fall asleep or to wake.
        release_timeout_s: Longest wait for memory to be given back after a stop.
        client_timeout_s: A client (ingress replica) silent for this long is forgotten.
        first_backoff_s: Wait after a failed start; doubled by each further failure.
        max_backoff_s: Largest such wait.
        poll_s: Interval of looking at live memory and requests in flight.
        tick_s: Interval of idle unloading and bookkeeping.
        live_margin_bytes: Live free memory that no model may take.
        sleep_margin_bytes: Live free RAM that sleeping models must leave.
    """

    unload_timeout_s: float = 0.0
    sleep_timeout_s: float = 3600.0
    max_concurrent_models: int = 0
    min_residency_s: float = 30.0
    max_waiting_requests: int = 64
    wait_timeout_s: float = 180.0
    room_timeout_s: float = 120.0
    patience_s: float = 5.0
    drain_timeout_s: float = 30.0
    settle_s: float = 2.0
    training_idle_s: float = 60.0
    start_timeout_s: float = 900.0
    stop_timeout_s: float = 60.0
    sleep_change_timeout_s: float = 60.0
    release_timeout_s: float = 30.0
    client_timeout_s: float = 5.0
    first_backoff_s: float = 10.0
    max_backoff_s: float = 300.0
    poll_s: float = 0.25
    tick_s: float = 1.0
    live_margin_bytes: int = 256 * 2**20
    sleep_margin_bytes: int = 2 * 2**30


RAM = "cpu"
"""Device on which sleeping models keep their weights."""

RESIDUAL_BYTES = 1024 * MIB
"""CUDA context, workspaces and captured graphs, which a sleeping engine keeps; taken until it was measured."""


PINNED_FACTOR = 1.5
"""RAM per byte of sleeping weights: torch pins memory in blocks that are powers of two, and keeps them for the next sleep."""


@dataclass(slots=True)
class DeviceLock:
    """What orders the work on one device.

    Attributes:
        turn: Held by the one load that may take room now, while it waits for it too; first come, first served.
        lock: Held while a model starts or stops; unloading can take it between two looks of the load whose turn it is.
    """

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class ManagerState:
    """The state of all models.

    Args:
        can_sleep: Whether the engine of a model can sleep on its device.
        default_models: Models that idle time alone does not unload.
        clock: Seconds that only grow; intervals are taken from it.
        wall_clock: Unix seconds, for people.
        metrics: Counts what happens; on a registry of their own when None.
    """

    def __init__(
        self,
        ledger: MemoryLedger,
        policy: LifecyclePolicy,
        *,
        can_sleep: Callable[[ModelSpec], bool] = lambda _: False,
        default_models: Set[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        metrics: LifecycleMetrics | None = None,
    ) -> None:
        self.ledger = ledger
        self.policy = policy
        self.default_models = default_models
        self._can_sleep = can_sleep
        self.clock = clock
        self.wall_clock = wall_clock
        self.metrics = metrics if metrics is not None else LifecycleMetrics()
        self.records: dict[str, ModelRecord] = {}
        self.clients = ClientReports()
        self.changed = Signal()
        # Unix milliseconds: versions keep growing when the lifecycle itself is started anew.
        self.version = int(wall_clock() * 1000)
        self.drain_after_s = 0.0
        # Since when no training of before holds memory; models displaced by it come back soon after.
        self.trainings_ended_s = clock()
        # Loads begun by a start of the hub: until they end the hub is not ready.
        self.starting: set[str] = set()
        self._device_locks: dict[str, DeviceLock] = {}
        self._show_gauges()

    @property
    def models_device(self) -> str:
        """Where models run, and trainings with them: `cpu` or `cuda:0`."""
        return next((device for device in self.ledger.budgets if device != RAM), RAM)

    def device_lock(self, device: str) -> DeviceLock:
        return self._device_locks.setdefault(device, DeviceLock())

    def set_state(self, record: ModelRecord, state: ModelState) -> None:
        """Change a model's state, the directory's version with it, and wake whoever waits."""
        if ModelState.READY in {record.state, state}:
            self.version += 1
        record.state = state
        record.changed.notify()
        self.changed.notify()

    def touch(self, record: ModelRecord) -> None:
        """Note a use."""
        record.used_s = self.clock()
        record.used_at = self.wall_clock()

    def in_memory(self) -> list[ModelRecord]:
        return [record for record in list(self.records.values()) if record.state in IN_MEMORY]

    def pinned(self) -> list[ModelRecord]:
        """Pinned models that are in memory."""
        return [record for record in self.in_memory() if record.is_pinned]

    def may_sleep(self, record: ModelRecord) -> bool:
        """Whether the model can sleep and the hub has a budget of RAM for that; how much of it is free is not asked."""
        return self._can_sleep(record.spec) and RAM in self.ledger.budgets

    def sleep_bytes(self, record: ModelRecord) -> int:
        """What the model's weights take of RAM while it sleeps, and afterwards until it ends."""
        return int(record.spec.requirement.weights_bytes * PINNED_FACTOR)

    def residual_bytes(self, record: ModelRecord) -> int:
        """What the model keeps of its device while it sleeps: as measured, else an estimate on the safe side."""
        if record.residual_bytes is not None:
            return record.residual_bytes
        return min(RESIDUAL_BYTES, record.need_bytes)

    def is_busy(self, record: ModelRecord) -> bool:
        """Whether a request is in flight, or may be on its way."""
        return self.clients.in_flight(record.model_id) > 0 or self.clock() - record.used_s < self.policy.settle_s

    def residency_left_s(self, record: ModelRecord) -> float:
        return max(record.ready_s + self.policy.min_residency_s - self.clock(), 0.0)

    def directory(self) -> Directory:
        ready = {
            name: ReadyModel(name, record.spec.context_tokens, record.spec.created)
            for name, record in self.records.items()
            if record.state is ModelState.READY
        }
        loadable = frozenset(name for name in self.records if name not in ready)
        # A client gives up its directory before it is forgotten here.
        return Directory(self.version, ready, loadable, lease_s=self.policy.client_timeout_s * 0.8)

    def _show_gauges(self) -> None:
        for state in ModelState:
            self.metrics.watch_models(state.value, partial(self._count, state))
        self.metrics.waiting.set_function(lambda: sum(record.waiting for record in self.records.values()))
        for device, budget_bytes in self.ledger.budgets.items():
            self.metrics.watch_memory(device, "budget", partial(int, budget_bytes))
            self.metrics.watch_memory(device, "reserved", partial(self._reserved_bytes, device))
            self.metrics.watch_memory(device, "used", partial(self._used_bytes, device))

    def _count(self, state: ModelState) -> int:
        return sum(record.shown_state is state for record in self.records.values())

    def _reserved_bytes(self, device: str) -> int:
        return sum(held.size_bytes for held in self.ledger.holders(device))

    def _used_bytes(self, device: str) -> int:
        return sum(held.used_bytes or 0 for held in self.ledger.holders(device))
