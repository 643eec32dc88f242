"""The regular look at all models, and what is done where they are not as they should be.

Idle, lost, displaced and sleeping models, silent clients, measurements, the desired state.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aihub.core.errors import HubError, ModelUnavailableError
from aihub.models.memory.admission import Start, next_step
from aihub.models.memory.desired import Desired, DesiredState
from aihub.models.memory.high_water_marks import PeakStore
from aihub.models.memory.host import ModelHost
from aihub.models.memory.loader import CAN_START, Loader
from aihub.models.memory.manager_state import Board
from aihub.models.memory.metrics import UnloadReason
from aihub.models.memory.state import IN_MEMORY, ModelRecord, ModelState
from aihub.models.memory.transitions import Transitions

logger = logging.getLogger(__name__)


class SleeperUpkeep:
    """Ends sleepers that have to go; those whose device is being changed are looked at the next time."""

    def __init__(self, board: Board, transitions: Transitions, host: ModelHost) -> None:
        self._board = board
        self._transitions = transitions
        self._host = host

    async def adopt(self, record: ModelRecord) -> bool:
        """Take over a running model that sleeps; False for one that is awake.

        One that does not say is stopped: as a sleeper it would get no request, taken for awake it would hold requests for
        ever.
        """
        if not self._board.may_sleep(record):
            return False
        try:
            is_asleep = await self._host.is_sleeping(record.model_id)
        except HubError as error:
            logger.warning("%s runs, but does not say whether it sleeps; it is stopped: %s", record.model_id, error.message)
            self._board.ledger.adopt(record.model_id, record.spec.device, record.need_bytes)
            await self._transitions.stop(record)
            return True
        if is_asleep:
            self._transitions.sleeping.enter_sleeping(record)
            record.is_displaced = record.model_id in self._board.default_models
            await self._transitions.sleeping.measure(record)
        return is_asleep

    async def look(self) -> None:
        """Look at every sleeper once."""
        board = self._board
        for record in [record for record in board.records.values() if record.state is ModelState.SLEEPING]:
            lane = board.lane(record.spec.device)
            if lane.lock.locked() or record.waiting:
                continue
            async with lane.lock:
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
        board = self._board
        if record.is_outdated:
            return "outdated"
        timeout_s = board.policy.sleep_timeout_s
        is_default = record.model_id in board.default_models
        if timeout_s > 0 and not is_default and board.clock() - record.asleep_s >= timeout_s:
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
        self._board.metrics.failures.labels(record.spec.device, "sleep").inc()
        return False


SLOW_TICKS = 5
"""Installed models, running models and used memory are looked at every so many ticks."""


class Upkeep:
    """One task that looks after everything once a tick."""

    def __init__(
        self,
        board: Board,
        transitions: Transitions,
        loader: Loader,
        host: ModelHost,
        desired: DesiredState,
        peaks: PeakStore,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._board = board
        self._transitions = transitions
        self._loader = loader
        self._sleepers = SleeperUpkeep(board, transitions, host)
        self._host = host
        self._desired = desired
        self._peaks = peaks
        self._refresh = refresh
        self._saved: Desired | None = None
        self._task: asyncio.Task[None] | None = None
        self._unloads: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name="model upkeep")

    async def close(self) -> None:
        """Stop, leaving models and the desired state as they are."""
        tasks = [*self._unloads, *([self._task] if self._task else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def restore(self) -> list[ModelRecord]:
        """Adopt what runs already and return the others that shall be in memory: pinned, then loaded, then default ones."""
        board = self._board
        desired = self._saved = await self._desired.read()
        for model_id in desired.pinned:
            if model_id in board.records:
                board.records[model_id].is_pinned = True
        for model_id in sorted(await self._host.running()):
            await self._adopt(model_id)
        wanted = dict.fromkeys((*desired.pinned, *desired.loaded, *sorted(board.default_models)))
        missing = [name for name in wanted if name not in board.records]
        if missing:
            logger.warning("No longer installed, so not loaded: %s.", ", ".join(missing))
        records = [board.records[name] for name in wanted if name in board.records]
        restored = [record for record in records if record.state is ModelState.UNLOADED]
        for record in restored:
            record.is_restored = True
        return restored

    async def save(self) -> None:
        """Write the desired state if it changed."""
        board = self._board
        held = [record for record in board.records.values() if record.state in IN_MEMORY or record.is_restored]
        held.sort(key=lambda record: record.ready_s)
        known = set(board.records)
        gone = [name for name in (self._saved.pinned if self._saved else ()) if name not in known]
        pinned = [record.model_id for record in board.records.values() if record.is_pinned]
        desired = Desired(tuple(record.model_id for record in held), tuple(sorted({*pinned, *gone})))
        if desired == self._saved:
            return
        try:
            await self._desired.write(desired)
            self._saved = desired
        except OSError as error:
            logger.warning("The list of loaded models could not be saved: %s", error)

    async def tick(self, number: int) -> None:
        """Do one round."""
        board = self._board
        board.clients.forget_silent(board.policy.client_timeout_s, board.clock())
        if number % SLOW_TICKS == 0:
            await self._refresh()
            await self._find_lost()
            await self._sleepers.look()
            await self._bring_back()
            for record in list(board.records.values()):
                if record.state is ModelState.READY:
                    await self._transitions.measure(record)
            await asyncio.to_thread(self._save_peaks)
        self._unload_idle()
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
            await asyncio.sleep(self._board.policy.tick_s)

    async def _adopt(self, model_id: str) -> None:
        board = self._board
        record = board.records.get(model_id)
        if record is None:
            logger.warning("The model %s runs, but is not installed; it is stopped.", model_id)
            await self._host.stop(model_id)
            return
        if await self._sleepers.adopt(record):
            return
        board.ledger.adopt(model_id, record.spec.device, record.need_bytes)
        self._transitions.enter_ready(record)
        # Its users have yet to report.
        board.drain_after_s = board.clock() + board.policy.client_timeout_s

    async def _find_lost(self) -> None:
        """Notice models that went away by themselves, and failed stops that ended after all."""
        board = self._board
        # Chosen before asking: what becomes ready meanwhile may be missing in the answer.
        looked_at = {ModelState.READY, ModelState.FAILED, ModelState.SLEEPING}
        held = [record for record in board.records.values() if record.state in looked_at]
        running = await self._host.running()
        for record in held:
            if record.model_id in running or board.lane(record.spec.device).lock.locked():
                continue
            if record.state is ModelState.READY:
                board.ledger.release(record.model_id)
                self._transitions.fail(record, "run", "It stopped by itself; the log of the model has the reason.")
            elif record.state in looked_at and board.ledger.held_bytes(record.model_id):
                if record.state is ModelState.SLEEPING:
                    logger.warning("%s ended while it slept; its next request loads it.", record.model_id)
                board.ledger.release(record.model_id)
                board.set_state(record, ModelState.UNLOADED)

    def _unload_idle(self) -> None:
        board = self._board
        timeout_s = board.policy.unload_timeout_s
        if timeout_s <= 0 or board.clock() < board.drain_after_s:
            return
        for record in list(board.records.values()):
            is_kept = record.is_pinned or record.model_id in board.default_models
            is_idle = record.state is ModelState.READY and not is_kept and not board.is_busy(record)
            if is_idle and board.clock() - record.used_s >= timeout_s and not board.lane(record.spec.device).lock.locked():
                task = asyncio.create_task(self._unload(record), name=f"unload {record.model_id}")
                self._unloads.add(task)
                task.add_done_callback(self._unloads.discard)

    async def _unload(self, record: ModelRecord) -> None:
        board = self._board
        async with board.lane(record.spec.device).lock:
            if board.clock() - record.used_s >= board.policy.unload_timeout_s > 0:
                await self._transitions.make_room(record, is_patient=False, reason="idle", yields_to_requests=True)

    async def _bring_back(self) -> None:
        """Load a default model that had made room for others, once there is room without taking theirs."""
        board = self._board
        for model_id in board.default_models & board.records.keys():
            record = board.records[model_id]
            is_loading = record.load is not None and not record.load.done()
            if not record.is_displaced or record.state not in CAN_START or record.failure is not None or is_loading:
                continue
            live = await self._transitions.memory.quietly_live(record.spec.device)
            try:
                has_room = isinstance(next_step(record, board, live, waited_s=0.0, may_evict=False), Start)
            except ModelUnavailableError:
                continue
            if has_room and not board.lane(record.spec.device).turn.locked():
                record.is_restored = True
                self._loader.begin(record)

    def _save_peaks(self) -> None:
        try:
            self._peaks.save()
        except OSError as error:
            logger.warning("Measured memory could not be saved: %s", error)
