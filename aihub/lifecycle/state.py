"""What is known of each model, and the signal that something changed."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from aihub.errors import HubError
from aihub.lifecycle.host import ModelSpec


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
        need_bytes: What it is admitted for: the measured peak where known, else the estimate; `is_measured` says which.
        ready_s: Since when it is ready.
        used_s: Last request, by the clients' reports.
        asleep_s: Since when it sleeps.
        residual_bytes: What it keeps of its device while it sleeps, as last measured; None when it has not slept yet.
        is_outdated: Another version, or none, is installed since it fell asleep.
        is_displaced: It made room for another model and nobody asked for that; a default model comes back.
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
