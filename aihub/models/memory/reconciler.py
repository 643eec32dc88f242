"""The regular look at all models, and what is done where they are not as they should be.

Idle, lost, displaced and sleeping models, silent clients, measurements, the desired state.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aihub.core.errors import HubError
from aihub.models.memory.displaced import DisplacedModels
from aihub.models.memory.host import ModelHost
from aihub.models.memory.kept_state import Desired, DesiredState, HighWaterMarks
from aihub.models.memory.loader import Loader
from aihub.models.memory.manager_state import ManagerState
from aihub.models.memory.room import TrainingRoom
from aihub.models.memory.state import IN_MEMORY, ModelRecord, ModelState
from aihub.models.memory.transitions import Transitions
from aihub.models.metrics import UnloadReason

logger = logging.getLogger(__name__)


class SleeperReconciler:
    """Ends sleepers that have to go; those whose device is being changed are looked at the next time."""

    def __init__(self, manager_state: ManagerState, transitions: Transitions, host: ModelHost) -> None:
        self._manager_state = manager_state
        self._transitions = transitions
        self._host = host

    async def adopt(self, record: ModelRecord) -> bool:
        """Take over a running model that sleeps; False for one that is awake.

        One that does not say is stopped: as a sleeper it would get no request, taken for awake it would hold requests for
        ever.
        """
        if not self._manager_state.may_sleep(record):
            return False
        try:
            is_asleep = await self._host.is_sleeping(record.model_id)
        except HubError as error:
            logger.warning("%s runs, but does not say whether it sleeps; it is stopped: %s", record.model_id, error.message)
            self._manager_state.ledger.adopt(record.model_id, record.spec.device, record.need_bytes)
            await self._transitions.stop(record)
            return True
        if is_asleep:
            self._transitions.sleeping.enter_sleeping(record)
            record.is_displaced = record.model_id in self._manager_state.default_models
            await self._transitions.sleeping.measure(record)
        return is_asleep

    async def look(self) -> None:
        """Look at every sleeper once."""
        manager_state = self._manager_state
        for record in [record for record in manager_state.records.values() if record.state is ModelState.SLEEPING]:
            device_lock = manager_state.device_lock(record.spec.device)
            if device_lock.lock.locked() or record.waiting:
                continue
            async with device_lock.lock:
                if record.state is not ModelState.SLEEPING:
                    continue
                if (reason := self._why_end(record)) is not None:
                    await self._transitions.sleeping.end(record, reason)
                elif await self._still_sleeps(record):
                    await self._transitions.sleeping.measure(record)
                else:
                    await self._transitions.stop(record)
        await self._transitions.sleeping.keep_ram_free()

    def _why_end(self, record: ModelRecord) -> UnloadReason | None:
        manager_state = self._manager_state
        if record.is_outdated:
            return "outdated"
        timeout_s = manager_state.policy.sleep_timeout_s
        is_kept = record.model_id in manager_state.default_models or record.returns_after_training
        if timeout_s > 0 and not is_kept and manager_state.clock() - record.asleep_s >= timeout_s:
            return "idle"
        return None

    async def _still_sleeps(self, record: ModelRecord) -> bool:
        """Whether the replica sleeps; one that was replaced is awake and takes memory that others have been given."""
        try:
            if await self._host.is_sleeping(record.model_id):
                return True
            reason = "it is awake, though nobody woke it"
        except HubError as error:
            reason = error.message
        logger.warning("%s was to sleep and is stopped: %s", record.model_id, reason)
        self._manager_state.metrics.failures.labels(record.spec.device, "sleep").inc()
        return False


SLOW_TICKS = 5
"""Installed models, running models and used memory are looked at every so many ticks."""


class Reconciler:
    """One task that looks after everything once a tick."""

    def __init__(
        self,
        manager_state: ManagerState,
        transitions: Transitions,
        loader: Loader,
        host: ModelHost,
        desired: DesiredState,
        high_water_marks: HighWaterMarks,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._manager_state = manager_state
        self._transitions = transitions
        self._displaced = DisplacedModels(manager_state, transitions, loader)
        self.training_room = TrainingRoom(manager_state, transitions, self.save)
        self._sleepers = SleeperReconciler(manager_state, transitions, host)
        self._host = host
        self._desired = desired
        self._high_water_marks = high_water_marks
        self._refresh = refresh
        self._saved: Desired | None = None
        self._task: asyncio.Task[None] | None = None
        self._unloads: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name="model reconciler")

    async def close(self) -> None:
        """Stop, leaving models and the desired state as they are."""
        await self.training_room.close()
        tasks = [*self._unloads, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def restore(self) -> list[ModelRecord]:
        """Adopt what runs already and return the others that shall be in memory: pinned, then loaded, then default ones.

        Trainings get their room first. While one has it, what made room for it stays away.
        """
        manager_state = self._manager_state
        desired = self._saved = await self._desired.read()
        self.training_room.restore(desired.trainings)
        for model_id in desired.displaced:
            if model_id in manager_state.records:
                manager_state.records[model_id].returns_after_training = True
        for model_id in desired.pinned:
            if model_id in manager_state.records:
                manager_state.records[model_id].is_pinned = True
        for model_id in sorted(await self._host.running()):
            await self._adopt(model_id)
        defaults = sorted(manager_state.default_models)
        wanted = dict.fromkeys((*desired.pinned, *desired.loaded, *desired.displaced, *defaults))
        missing = [name for name in wanted if name not in manager_state.records]
        if missing:
            logger.warning("No longer installed, so not loaded: %s.", ", ".join(missing))
        records = [manager_state.records[name] for name in wanted if name in manager_state.records]
        is_held = bool(self.training_room.holders())
        restored = [
            record
            for record in records
            if record.state is ModelState.UNLOADED and not (is_held and record.returns_after_training)
        ]
        for record in restored:
            record.is_restored = True
        return restored

    async def save(self) -> None:
        """Write the desired state if it changed."""
        manager_state = self._manager_state
        held = [record for record in manager_state.records.values() if record.state in IN_MEMORY or record.is_restored]
        held.sort(key=lambda record: record.ready_s)
        known = set(manager_state.records)
        gone = [name for name in (self._saved.pinned if self._saved else ()) if name not in known]
        pinned = [record.model_id for record in manager_state.records.values() if record.is_pinned]
        desired = Desired(
            tuple(record.model_id for record in held),
            tuple(sorted({*pinned, *gone})),
            tuple(sorted(record.model_id for record in manager_state.records.values() if record.returns_after_training)),
            self.training_room.sizes(),
        )
        if desired == self._saved:
            return
        try:
            await self._desired.write(desired)
            self._saved = desired
        except OSError as error:
            logger.warning("The list of loaded models could not be saved: %s", error)

    async def tick(self, number: int) -> None:
        """Do one round."""
        manager_state = self._manager_state
        manager_state.clients.forget_silent(manager_state.policy.client_timeout_s, manager_state.clock())
        if number % SLOW_TICKS == 0:
            await self._refresh()
            await self._find_lost()
            await self._sleepers.look()
            await self._displaced.look()
            for record in list(manager_state.records.values()):
                if record.state is ModelState.READY:
                    await self._transitions.measure(record)
            await asyncio.to_thread(self._save_high_water_marks)
        self._unload_idle()
        self.training_room.look()
        await self.save()

    async def _run(self) -> None:
        number = 0
        while True:
            try:
                await self.tick(number)
            except HubError as error:
                logger.warning("Looking after the models failed: %s", error.message)
            except Exception:  # a host may fail in any way; the next round tries again
                logger.exception("Looking after the models failed.")
            number += 1
            await asyncio.sleep(self._manager_state.policy.tick_s)

    async def _adopt(self, model_id: str) -> None:
        manager_state = self._manager_state
        record = manager_state.records.get(model_id)
        if record is None:
            logger.warning("The model %s runs, but is not installed; it is stopped.", model_id)
            await self._host.stop(model_id)
            return
        if await self._sleepers.adopt(record):
            return
        manager_state.ledger.adopt(model_id, record.spec.device, record.need_bytes)
        self._transitions.enter_ready(record)
        # Its users have yet to report.
        manager_state.drain_after_s = manager_state.clock() + manager_state.policy.client_timeout_s

    async def _find_lost(self) -> None:
        """Notice models that went away by themselves, and failed stops that ended after all."""
        manager_state = self._manager_state
        # Chosen before asking: what becomes ready meanwhile may be missing in the answer.
        looked_at = {ModelState.READY, ModelState.FAILED, ModelState.SLEEPING}
        held = [record for record in manager_state.records.values() if record.state in looked_at]
        running = await self._host.running()
        for record in held:
            if record.model_id in running or manager_state.device_lock(record.spec.device).lock.locked():
                continue
            if record.state is ModelState.READY:
                manager_state.ledger.release(record.model_id)
                self._transitions.fail(record, "run", "It stopped by itself; the log of the model has the reason.")
            elif record.state in looked_at and manager_state.ledger.held_bytes(record.model_id):
                if record.state is ModelState.SLEEPING:
                    logger.warning("%s ended while it slept; its next request loads it.", record.model_id)
                manager_state.ledger.release(record.model_id)
                manager_state.set_state(record, ModelState.UNLOADED)

    def _unload_idle(self) -> None:
        manager_state = self._manager_state
        timeout_s = manager_state.policy.unload_timeout_s
        if timeout_s <= 0 or manager_state.clock() < manager_state.drain_after_s:
            return
        for record in list(manager_state.records.values()):
            is_kept = record.is_pinned or record.model_id in manager_state.default_models
            is_idle = record.state is ModelState.READY and not is_kept and not manager_state.is_busy(record)
            if (
                is_idle
                and manager_state.clock() - record.used_s >= timeout_s
                and not manager_state.device_lock(record.spec.device).lock.locked()
            ):
                task = asyncio.create_task(self._unload(record), name=f"unload {record.model_id}")
                self._unloads.add(task)
                task.add_done_callback(self._unloads.discard)

    async def _unload(self, record: ModelRecord) -> None:
        manager_state = self._manager_state
        async with manager_state.device_lock(record.spec.device).lock:
            if manager_state.clock() - record.used_s >= manager_state.policy.unload_timeout_s > 0:
                await self._transitions.make_room(record, is_patient=False, reason="idle", yields_to_requests=True)

    def _save_high_water_marks(self) -> None:
        try:
            self._high_water_marks.save()
        except OSError as error:
            logger.warning("Measured memory could not be saved: %s", error)
