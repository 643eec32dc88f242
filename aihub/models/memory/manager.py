"""The lifecycle of local models: loaded on first request, unloaded when idle or when others need the room."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Set

from aihub.core.errors import ConflictError, HubError, ModelUnavailableError, NotFoundError, OverloadedError
from aihub.models.memory.admission import refuse_impossible
from aihub.models.memory.host import ModelHost, ModelSpec
from aihub.models.memory.kept_state import DesiredState, HighWaterMarks
from aihub.models.memory.ledger import MemoryLedger
from aihub.models.memory.loader import Loader, Unloader, still_loading
from aihub.models.memory.manager_state import LifecyclePolicy, ManagerState
from aihub.models.memory.reconciler import Reconciler
from aihub.models.memory.state import AT_REST, Directory, ModelRecord, ModelState, ReadyModel, UnloadLevel
from aihub.models.memory.status import LifecycleStatus, ModelStatus, device_status, model_status
from aihub.models.memory.transitions import Transitions
from aihub.models.metrics import LifecycleMetrics

SpecSource = Callable[[], Awaitable[dict[str, ModelSpec]]]
SPECS_MAX_AGE_S = 1.0


class ModelLifecycle:
    """One per cluster. Requests to ready models do not pass through it: clients go by the directory of their last report.

    A client (an ingress replica) must report every second while it has requests, and at the begin of the first one after a
    pause, count in `in_flight` the requests it has handed to a model (not those that wait in `ensure`), and stop using a
    directory older than its `lease_s`.

    Args:
        host: Starts and stops models.
        ledger: Budgets, with fixed holders entered.
        specs: Installed models by id; asked again every few seconds.
        policy: See `LifecyclePolicy`; `set_policy` replaces it at run time.
        desired: Remembers what is loaded and pinned.
        high_water_marks: Measured memory; forgotten at the end when None.
        metrics: Counts loads, unloads and memory; nobody reads them when None.
        default_models: Each start loads them, idle time alone does not unload them, and where they made room for another
            model they come back when that is gone.
        clock: Seconds that only grow.
        wall_clock: Unix seconds.

    Attributes:
        training_room: What trainings take of the models' device.
    """

    def __init__(
        self,
        host: ModelHost,
        ledger: MemoryLedger,
        specs: SpecSource,
        *,
        policy: LifecyclePolicy,
        desired: DesiredState,
        high_water_marks: HighWaterMarks | None = None,
        metrics: LifecycleMetrics | None = None,
        default_models: Set[str] = frozenset(),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._specs = specs
        self._high_water_marks = high_water_marks if high_water_marks is not None else HighWaterMarks()
        self._manager_state = ManagerState(
            ledger,
            policy,
            can_sleep=host.can_sleep,
            default_models=default_models,
            clock=clock,
            wall_clock=wall_clock,
            metrics=metrics,
        )
        self._transitions = Transitions(self._manager_state, host, self._high_water_marks)
        self._loader = Loader(self._manager_state, self._transitions)
        self._unloader = Unloader(self._manager_state, self._transitions)
        self._reconciler = Reconciler(
            self._manager_state, self._transitions, self._loader, host, desired, self._high_water_marks, self.refresh
        )
        self.training_room = self._reconciler.training_room
        self._waiting = 0
        self._refreshed_s = float("-inf")

    async def start(self) -> None:
        """Take over models that run already, begin to load those that shall be in memory, start the reconciler."""
        await asyncio.to_thread(self._high_water_marks.load)
        await self.refresh()
        for record in await self._reconciler.restore():
            self._begin_at_start(record)
        self._reconciler.begin()

    async def close(self) -> None:
        """Stop all work; models stay as they are."""
        await self._reconciler.close()
        loads = [record.load for record in self._manager_state.records.values() if record.load is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        await self._unloader.close()

    def set_policy(self, policy: LifecyclePolicy) -> None:
        """Use other numbers from now on."""
        self._manager_state.policy = policy
        self._manager_state.changed.notify()

    async def report(
        self,
        client_id: str,
        in_flight: Mapping[str, int],
        used: Set[str],
        *,
        seen_version: int,
        tokens_per_s: Mapping[str, float] | None = None,
    ) -> Directory:
        """Take a client's report and return what it may use until the next.

        Args:
            client_id: The same for every report of one ingress replica.
            in_flight: Requests it has handed to each model and which have not ended.
            used: Models it has sent requests to since the last report.
            seen_version: `version` of the directory it acted by when it counted; 0 when it had none.
            tokens_per_s: Speed of single streams by model, where it saw some.
        """
        manager_state = self._manager_state
        manager_state.clients.record(client_id, in_flight, seen_version, manager_state.clock())
        for model_id in used | {name for name, count in in_flight.items() if count > 0}:
            if model_id in manager_state.records:
                manager_state.touch(manager_state.records[model_id])
        for model_id, speed in (tokens_per_s or {}).items():
            if model_id in manager_state.records:
                manager_state.records[model_id].tokens_per_s = speed
        manager_state.changed.notify()
        return manager_state.directory()

    async def ensure(self, model_id: str, *, wait_s: float | None = None) -> ReadyModel:
        """Return once the model can be asked, loading it first where needed.

        Args:
            wait_s: Longest wait where it is less than the policy's; the load goes on after it.

        Raises:
            NotFoundError: It is not installed.
            OverloadedError: Too many requests wait for models already.
            ModelUnavailableError: It cannot fit, failed a moment ago, or was not ready in time. Both carry Retry-After.
        """
        record = await self._find(model_id)
        policy = self._manager_state.policy
        if record.state is not ModelState.READY:
            if record.state not in {ModelState.LOADING, ModelState.DRAINING}:
                self._loader.refuse_hopeless(record)
            if self._waiting >= policy.max_waiting_requests:
                raise OverloadedError(
                    f"{self._waiting} requests wait for models to be loaded. Try again in a few seconds.", retry_after_s=5
                )
            self._waiting += 1
            try:
                await self._become_ready(record, min(policy.wait_timeout_s, wait_s or policy.wait_timeout_s))
            finally:
                self._waiting -= 1
        self._manager_state.touch(record)
        return ReadyModel(model_id, record.spec.context_tokens, record.spec.created)

    async def load(self, model_id: str, *, force_reload: bool = False) -> ModelStatus:
        """Load a model now and return once it is ready; `force_reload` ends it first, when its requests have ended.

        Raises:
            NotFoundError: It is not installed.
            ModelUnavailableError: It cannot fit or did not start.
            ConflictError: It is to be reloaded, and its requests did not end in time.
        """
        record = await self._find(model_id)
        refuse_impossible(record, self._manager_state)
        if force_reload and self._manager_state.ledger.held_bytes(model_id):
            await self._unloader.unload(record, "full")
            await self.refresh()
            record = await self._find(model_id)
        policy = self._manager_state.policy
        if record.state is not ModelState.READY:
            await self._become_ready(record, policy.room_timeout_s + policy.start_timeout_s)
        await self._reconciler.save()
        return model_status(record, self._manager_state)

    async def unload(self, model_id: str, level: UnloadLevel = "sleep") -> ModelStatus:
        """Unload a model and return once its memory is back; new requests wait while those in flight end.

        The unload goes on when the caller leaves.

        Args:
            level: With `sleep` the state is `sleeping` afterwards, or `unloaded` where it cannot sleep.

        Raises:
            NotFoundError: It is not installed.
            ConflictError: It is pinned, or its requests did not end in time.
            ModelUnavailableError: It could not be stopped.
        """
        record = await self._find(model_id)
        if record.is_pinned:
            raise ConflictError(f"The model {model_id!r} is pinned. Unpin it first.", param="model_id")
        await self._unloader.unload(record, level)
        await self._reconciler.save()
        return model_status(record, self._manager_state)

    async def pin(self, model_id: str) -> ModelStatus:
        """Keep a model: once loaded it is never evicted or unloaded when idle, and each start loads it.

        Raises:
            NotFoundError: It is not installed.
        """
        return await self._set_pinned(model_id, is_pinned=True)

    async def unpin(self, model_id: str) -> ModelStatus:
        """Let a model go when it is idle.

        Raises:
            NotFoundError: It is not installed.
        """
        return await self._set_pinned(model_id, is_pinned=False)

    async def info(self, model_id: str) -> ModelStatus:
        """One model's status.

        Raises:
            NotFoundError: It is not installed.
        """
        return model_status(await self._find(model_id), self._manager_state)

    async def status(self) -> LifecycleStatus:
        """Every installed model and every device with a budget."""
        live = await self._host.device_memory()
        return LifecycleStatus(self.models(), device_status(self._manager_state, live))

    def models(self) -> list[ModelStatus]:
        """Every installed model, by name; costs no look at a device."""
        models = [model_status(record, self._manager_state) for record in self._manager_state.records.values()]
        return sorted(models, key=lambda model: model.model_id)

    async def refresh(self) -> None:
        """Ask which models are installed; records of removed ones go once they are out of memory."""
        self._refreshed_s = self._manager_state.clock()
        specs = await self._specs()
        records = self._manager_state.records
        for model_id, spec in specs.items():
            need_bytes, is_measured = self._high_water_marks.need_bytes(spec), self._high_water_marks.is_measured(spec)
            record = records.setdefault(model_id, ModelRecord(spec, need_bytes, used_s=float("-inf")))
            record.is_outdated = record.state is ModelState.SLEEPING and record.spec != spec
            if record.state in AT_REST and (record.load is None or record.load.done()):
                record.spec, record.need_bytes, record.is_measured = spec, need_bytes, is_measured
        for model_id in records.keys() - specs.keys():
            records[model_id].is_outdated = True
            if records[model_id].shown_state in AT_REST:
                del records[model_id]

    async def _find(self, model_id: str) -> ModelRecord:
        records = self._manager_state.records
        if model_id not in records and self._manager_state.clock() - self._refreshed_s >= SPECS_MAX_AGE_S:
            await self.refresh()
        if model_id not in records:
            raise NotFoundError(
                f"There is no local model {model_id[:256]!r}. Installed: {', '.join(sorted(records)) or 'none'}.",
                param="model_id",
                code="model_not_found",
            )
        return records[model_id]

    async def _become_ready(self, record: ModelRecord, timeout_s: float) -> None:
        """Wait until the model is ready, loading it whenever nobody else does."""
        manager_state = self._manager_state
        deadline_s = manager_state.clock() + timeout_s
        record.waiting += 1
        record.changed.notify()
        try:
            load: asyncio.Task[HubError | None] | None = None
            while record.state is not ModelState.READY:
                if load is not None and load.done():
                    if load.cancelled():
                        raise ModelUnavailableError("The hub is stopping. Try again in a minute.")
                    if (error := load.result()) is not None:
                        raise error
                left_s = deadline_s - manager_state.clock()
                if left_s <= 0:
                    raise still_loading(record, manager_state.clock())
                load = self._loader.begin(record)
                await record.changed.wait(left_s)
        finally:
            record.waiting -= 1

    def _begin_at_start(self, record: ModelRecord) -> None:
        starting = self._manager_state.starting
        starting.add(record.model_id)
        self._loader.begin(record).add_done_callback(lambda _: starting.discard(record.model_id))

    async def _set_pinned(self, model_id: str, *, is_pinned: bool) -> ModelStatus:
        record = await self._find(model_id)
        record.is_pinned = is_pinned
        self._manager_state.changed.notify()
        await self._reconciler.save()
        return model_status(record, self._manager_state)
