"""What is known of each model and of the requests at the ingress replicas, and the signal that something changed."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from aihub.core.errors import HubError
from aihub.models.memory.host import ModelSpec


class ModelState(StrEnum):
    """`unloaded -> loading -> ready -> draining -> unloading -> unloaded`; draining may go back to ready.

    On a GPU `unloading` may end in `sleeping`: the weights lie in RAM, and `loading` wakes the model in about a second.
    `queued` is shown for a model that waits for its turn or for room; `failed` for one whose last start or stop failed.
    """

    UNLOADED = "unloaded"
    QUEUED = "queued"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    UNLOADING = "unloading"
    SLEEPING = "sleeping"
    FAILED = "failed"


IN_MEMORY = frozenset({ModelState.LOADING, ModelState.READY, ModelState.DRAINING, ModelState.UNLOADING})
"""States of a model that takes its full memory."""

AT_REST = frozenset({ModelState.UNLOADED, ModelState.FAILED})

UnloadLevel = Literal["sleep", "full"]
"""`sleep` keeps a model's weights in RAM where it can sleep, and is `full` elsewhere; `full` ends its processes."""


class Signal:
    """Wakes everyone who waits now."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next `notify`, or after `timeout_s`."""
        event = self._event
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return


@dataclass(slots=True)
class Failure:
    """Why the last start failed; times are those of the lifecycle's clock."""

    reason: str
    count: int
    retry_at_s: float


@dataclass(slots=True)
class ModelRecord:
    """One model; only `ModelLifecycle` and its parts change it.

    Attributes:
        need_bytes: What it is admitted for: the measured high-water mark where known, else the estimate; `is_measured` says
        which.
        ready_s: Since when it is ready.
        used_s: Last request, by the clients' reports.
        asleep_s: Since when it sleeps.
        residual_bytes: What it keeps of its device while it sleeps, as last measured; None when it has not slept yet.
        is_outdated: Another version, or none, is installed since it fell asleep.
        is_displaced: It made room for another model and nobody asked for that; a default model comes back.
        returns_after_training: It made room for a training and is loaded again when that has ended.
        load_asked_s: Since when the load is under way, its wait for room included; `load_began_s`, since when it starts.
        load: The task that loads it, queued or running; its result is the error, if any.
        give_up: Set to take a queued load back.
        waiting: Requests that wait for it.
    """

    spec: ModelSpec
    need_bytes: int
    is_measured: bool = False
    state: ModelState = ModelState.UNLOADED
    is_pinned: bool = False
    is_restored: bool = False
    ready_s: float = 0.0
    used_s: float = 0.0
    asleep_s: float = 0.0
    residual_bytes: int | None = None
    is_outdated: bool = False
    is_displaced: bool = False
    returns_after_training: bool = False
    used_at: float | None = None
    loaded_at: float | None = None
    load_time_s: float | None = None
    load_asked_s: float = 0.0
    load_began_s: float = 0.0
    used_bytes: int | None = None
    tokens_per_s: float | None = None
    failure: Failure | None = None
    load: "asyncio.Task[HubError | None] | None" = None
    give_up: bool = False
    waiting: int = 0
    changed: Signal = field(default_factory=Signal)

    @property
    def model_id(self) -> str:
        return self.spec.model_id

    @property
    def shown_state(self) -> ModelState:
        """The state as people see it: a load that has not started yet is `queued`."""
        is_waiting = self.load is not None and not self.load.done()
        if is_waiting and self.state in AT_REST | {ModelState.SLEEPING}:
            return ModelState.QUEUED
        return self.state


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A model that can be asked now.

    Attributes:
        created: Unix seconds of the install.
    """

    model_id: str
    context_tokens: int
    created: int


@dataclass(frozen=True, slots=True)
class Directory:
    """What a client may use until its next report.

    Attributes:
        version: Grows with every change of `ready`; a client repeats it in its next report as `seen_version`.
        ready: By model id. Requests to these go straight to the model.
        loadable: Installed models that are not ready; `ensure` loads them.
        lease_s: Without a newer directory for this long the client must ask `ensure` before every request.
    """

    version: int
    ready: Mapping[str, ReadyModel]
    loadable: frozenset[str]
    lease_s: float


@dataclass(slots=True)
class _Client:
    reported_s: float
    seen_version: int
    in_flight: dict[str, int] = field(default_factory=dict)


class ClientReports:
    """The latest report of every live client; times are those of the lifecycle's clock."""

    def __init__(self) -> None:
        self._clients: dict[str, _Client] = {}

    def record(self, client_id: str, in_flight: Mapping[str, int], seen_version: int, now_s: float) -> None:
        counts = {model_id: count for model_id, count in in_flight.items() if count > 0}
        self._clients[client_id] = _Client(now_s, seen_version, counts)

    def forget_silent(self, timeout_s: float, now_s: float) -> None:
        """Drop clients that stopped reporting; their requests are seen by the engine alone."""
        self._clients = {name: client for name, client in self._clients.items() if now_s - client.reported_s < timeout_s}

    def in_flight(self, model_id: str) -> int:
        """Requests all live clients have handed to a model."""
        return sum(client.in_flight.get(model_id, 0) for client in self._clients.values())

    def all_have_seen(self, version: int) -> bool:
        """Whether every live client acts on that directory or a newer one."""
        return all(client.seen_version >= version for client in self._clients.values())
