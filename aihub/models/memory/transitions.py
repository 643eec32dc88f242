"""The changes of one model: start, drain, sleep, wake, stop. Callers hold the lock of its device."""

import asyncio
import logging

from aihub.core.errors import HubError, ModelUnavailableError
from aihub.models.memory.host import CannotStartError, ModelHost
from aihub.models.memory.kept_state import HighWaterMarks
from aihub.models.memory.ledger import gib
from aihub.models.memory.manager_state import ManagerState
from aihub.models.memory.sleeping import HostMemory, Sleeping
from aihub.models.memory.state import Failure, ModelRecord, ModelState
from aihub.models.metrics import FailureStage, UnloadReason

logger = logging.getLogger(__name__)

UNCHANGED_BYTES = 2**20
"""A model that uses this little more or less than at the last look has not been asked anything."""


class Transitions:
    """Moves models between states on a host."""

    def __init__(self, manager_state: ManagerState, host: ModelHost, high_water_marks: HighWaterMarks) -> None:
        self._manager_state = manager_state
        self._host = host
        self._high_water_marks = high_water_marks
        self.memory = HostMemory(manager_state, host)
        self.sleeping = Sleeping(manager_state, host, self.memory, self.stop)

    async def start(self, record: ModelRecord) -> None:
        """Start a model for which there is room.

        Raises:
            ModelUnavailableError: It did not start; its state is `failed`, and what it left behind is cleared away.
        """
        manager_state, spec = self._manager_state, record.spec
        manager_state.ledger.reserve(record.model_id, spec.device, record.need_bytes)
        manager_state.set_state(record, ModelState.LOADING)
        logger.info("Loading %s: %s on %s.", record.model_id, gib(record.need_bytes), spec.device)
        began_s = record.load_began_s = manager_state.clock()
        try:
            async with asyncio.timeout(manager_state.policy.start_timeout_s):
                await self._host.start(spec)
        except Exception as error:  # a host may fail in any way; every one ends as a failed model
            reason = _reason(error, f"it did not start within {manager_state.policy.start_timeout_s:.0f} s")
            logger.warning("Loading %s failed: %s", record.model_id, reason)
            await self.stop(record)
            cannot_start = isinstance(error, CannotStartError)
            self.fail(record, "start", reason, wait_s=manager_state.policy.max_backoff_s if cannot_start else None)
            error_type = CannotStartError if cannot_start else ModelUnavailableError
            raise error_type(
                f"The model {record.model_id!r} could not be loaded: {reason}", retry_after_s=self.retry_after_s(record)
            ) from error
        record.failure = None
        record.load_time_s = manager_state.clock() - began_s
        manager_state.metrics.load_seconds.labels(spec.device).observe(record.load_time_s)
        self.enter_ready(record)

    def enter_ready(self, record: ModelRecord) -> None:
        """Make a started model usable."""
        manager_state = self._manager_state
        record.ready_s = manager_state.clock()
        record.loaded_at = manager_state.wall_clock()
        record.is_restored = record.is_displaced = record.returns_after_training = False
        manager_state.touch(record)
        manager_state.set_state(record, ModelState.READY)

    async def wake(self, record: ModelRecord) -> None:
        """Wake a sleeper for which there is room, or leave it unloaded when it does not wake."""
        if await self.sleeping.wake(record):
            self.enter_ready(record)

    def fail(self, record: ModelRecord, stage: FailureStage, reason: str, *, wait_s: float | None = None) -> None:
        """Note a failure and when the next try makes sense: after `wait_s`, or later with each failure when that is None."""
        policy = self._manager_state.policy
        self._manager_state.metrics.failures.labels(record.spec.device, stage).inc()
        count = record.failure.count + 1 if record.failure else 1
        if wait_s is None:
            wait_s = min(policy.first_backoff_s * 2 ** min(count - 1, 16), policy.max_backoff_s)
        record.failure = Failure(reason, count, self._manager_state.clock() + wait_s)
        record.is_restored = False
        self._manager_state.set_state(record, ModelState.FAILED)

    def retry_after_s(self, record: ModelRecord) -> int:
        left_s = record.failure.retry_at_s - self._manager_state.clock() if record.failure else 0.0
        return max(round(left_s + 0.5), 1)

    async def make_room(
        self,
        record: ModelRecord,
        *,
        is_patient: bool,
        reason: UnloadReason,
        may_sleep: bool = True,
        yields_to_requests: bool = False,
    ) -> None:
        """Unload a ready model that is not pinned, unless requests keep it; arguments as for `drain` and `unload`."""
        if record.state is not ModelState.READY or _is_pinned(record):
            return
        if await self.drain(record, is_patient=is_patient, yields_to_requests=yields_to_requests):
            if _is_pinned(record):  # meanwhile
                self._manager_state.set_state(record, ModelState.READY)
            else:
                record.is_displaced = reason == "evicted"
                await self.unload(record, reason, may_sleep=may_sleep)

    async def unload(self, record: ModelRecord, reason: UnloadReason, *, may_sleep: bool) -> bool:
        """Put a drained model to sleep where it can and may, else stop it; False as for `stop`."""
        return (may_sleep and await self.sleeping.put_to_sleep(record, reason)) or await self.stop(record, reason)

    async def drain(self, record: ModelRecord, *, is_patient: bool, yields_to_requests: bool = False) -> bool:
        """Take a ready model out of the directory until nothing is in flight; False when it had to stay.

        Every live client must first have seen a directory without it, for until then it may send a request. A patient
        drain waits for requests in flight to end; otherwise the first one seen ends it.
        """
        manager_state = self._manager_state
        manager_state.set_state(record, ModelState.DRAINING)
        limit_s = manager_state.policy.drain_timeout_s if is_patient else 2 * manager_state.policy.client_timeout_s
        deadline_s = manager_state.clock() + limit_s
        version = manager_state.version
        try:
            while manager_state.clock() < deadline_s:
                manager_state.clients.forget_silent(manager_state.policy.client_timeout_s, manager_state.clock())
                if yields_to_requests and record.waiting:
                    break
                if manager_state.clients.all_have_seen(version):
                    is_idle = not await self._requests_inside(record)
                    if is_idle and not manager_state.clients.in_flight(record.model_id):
                        return True
                    if not is_patient:
                        break
                elif not is_patient and manager_state.clients.in_flight(record.model_id):
                    break
                await manager_state.changed.wait(manager_state.policy.poll_s)
        except BaseException:
            manager_state.set_state(record, ModelState.READY)
            raise
        manager_state.touch(record)
        manager_state.set_state(record, ModelState.READY)
        return False

    async def stop(self, record: ModelRecord, reason: UnloadReason | None = None) -> bool:
        """Stop a model and wait until its memory is back; False (state `failed`, memory still charged) when it stays.

        Args:
            record: The model.
            reason: Counted; None for what is left of a model that did not start or stop.
        """
        manager_state = self._manager_state
        manager_state.set_state(record, ModelState.UNLOADING)
        before = await self.memory.quietly_live(record.spec.device)
        used_bytes = await self.memory.quietly_used(record)
        try:
            async with asyncio.timeout(manager_state.policy.stop_timeout_s):
                await self._host.stop(record.model_id)
        except Exception as error:  # noqa: BLE001  # a host may fail in any way; the model's memory stays charged to it
            cause = _reason(error, f"it did not stop within {manager_state.policy.stop_timeout_s:.0f} s")
            logger.warning("Unloading %s failed: %s", record.model_id, cause)
            self.fail(record, "stop", f"It could not be unloaded: {cause}")
            return False
        if reason is not None:
            manager_state.metrics.unloads.labels(record.spec.device, reason).inc()
        await self.memory.wait_for_return(record, before, used_bytes)
        manager_state.ledger.release(record.model_id)
        record.used_bytes = None
        record.loaded_at = None
        record.is_outdated = False
        manager_state.set_state(record, ModelState.UNLOADED)
        logger.info("Unloaded %s.", record.model_id)
        return True

    async def measure(self, record: ModelRecord) -> None:
        """Look at what a ready model uses: its high-water mark is kept, and growth is charged to it."""
        used_bytes = await self.memory.quietly_used(record)
        if used_bytes is None or record.state is not ModelState.READY:
            return
        if abs(used_bytes - (record.used_bytes or 0)) < UNCHANGED_BYTES:
            return  # What would be asked next makes the engine look at each page of its cache.
        record.used_bytes = used_bytes
        # A cache that fills later belongs to the high-water mark; what the ledger still keeps free for the model is taken from
        # `used_bytes`.
        self._high_water_marks.record(record.spec, used_bytes + await self._host.unfilled_bytes(record.model_id))
        self._manager_state.ledger.observe(record.model_id, record.spec.device, used_bytes)

    async def _requests_inside(self, record: ModelRecord) -> int:
        try:
            return await self._host.active_requests(record.model_id)
        except HubError as error:
            logger.warning("%s does not say how many requests it holds: %s", record.model_id, error.message)
            return 0


def _is_pinned(record: ModelRecord) -> bool:
    return record.is_pinned


def _reason(error: Exception, if_late: str) -> str:
    if isinstance(error, HubError):
        return error.message
    if isinstance(error, TimeoutError):
        return f"{if_late}."
    return f"{type(error).__name__}: {error}"
