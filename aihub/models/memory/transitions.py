"""The changes of one model: start, drain, sleep, wake, stop. Callers hold the lock of its device."""

import asyncio
import logging

from aihub.core.errors import HubError, ModelUnavailableError
from aihub.models.memory.high_water_marks import PeakStore
from aihub.models.memory.host import CannotStartError, ModelHost
from aihub.models.memory.ledger import gib
from aihub.models.memory.manager_state import Board
from aihub.models.memory.metrics import FailureStage, UnloadReason
from aihub.models.memory.sleeping import HostMemory, Sleeping
from aihub.models.memory.state import Failure, ModelRecord, ModelState

logger = logging.getLogger(__name__)

UNCHANGED_BYTES = 2**20
"""A model that uses this little more or less than at the last look has not been asked anything."""


class Transitions:
    """Moves models between states on a host."""

    def __init__(self, board: Board, host: ModelHost, peaks: PeakStore) -> None:
        self._board = board
        self._host = host
        self._peaks = peaks
        self.memory = HostMemory(board, host)
        self.sleeping = Sleeping(board, host, self.memory, self.stop)

    async def start(self, record: ModelRecord) -> None:
        """Start a model for which there is room.

        Raises:
            ModelUnavailableError: It did not start; its state is `failed`, and what it left behind is cleared away.
        """
        board, spec = self._board, record.spec
        board.ledger.reserve(record.model_id, spec.device, record.need_bytes)
        board.set_state(record, ModelState.LOADING)
        logger.info("Loading %s: %s on %s.", record.model_id, gib(record.need_bytes), spec.device)
        began_s = record.load_began_s = board.clock()
        try:
            async with asyncio.timeout(board.policy.start_timeout_s):
                await self._host.start(spec)
        except Exception as error:  # a host may fail in any way; every one ends as a failed model
            reason = _reason(error, f"it did not start within {board.policy.start_timeout_s:.0f} s")
            logger.warning("Loading %s failed: %s", record.model_id, reason)
            await self.stop(record)
            cannot_start = isinstance(error, CannotStartError)
            self.fail(record, "start", reason, wait_s=board.policy.max_backoff_s if cannot_start else None)
            error_type = CannotStartError if cannot_start else ModelUnavailableError
            raise error_type(
                f"The model {record.model_id!r} could not be loaded: {reason}", retry_after_s=self.retry_after_s(record)
            ) from error
        record.failure = None
        record.load_time_s = board.clock() - began_s
        board.metrics.load_seconds.labels(spec.device).observe(record.load_time_s)
        self.enter_ready(record)

    def enter_ready(self, record: ModelRecord) -> None:
        """Make a started model usable."""
        board = self._board
        record.ready_s = board.clock()
        record.loaded_at = board.wall_clock()
        record.is_restored = record.is_displaced = False
        board.touch(record)
        board.set_state(record, ModelState.READY)

    async def wake(self, record: ModelRecord) -> None:
        """Wake a sleeper for which there is room, or leave it unloaded when it does not wake."""
        if await self.sleeping.wake(record):
            self.enter_ready(record)

    def fail(self, record: ModelRecord, stage: FailureStage, reason: str, *, wait_s: float | None = None) -> None:
        """Note a failure and when the next try makes sense: after `wait_s`, or later with each failure when that is None."""
        policy = self._board.policy
        self._board.metrics.failures.labels(record.spec.device, stage).inc()
        count = record.failure.count + 1 if record.failure else 1
        if wait_s is None:
            wait_s = min(policy.first_backoff_s * 2 ** min(count - 1, 16), policy.max_backoff_s)
        record.failure = Failure(reason, count, self._board.clock() + wait_s)
        record.is_restored = False
        self._board.set_state(record, ModelState.FAILED)

    def retry_after_s(self, record: ModelRecord) -> int:
        left_s = record.failure.retry_at_s - self._board.clock() if record.failure else 0.0
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
                self._board.set_state(record, ModelState.READY)
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
        board = self._board
        board.set_state(record, ModelState.DRAINING)
        limit_s = board.policy.drain_timeout_s if is_patient else 2 * board.policy.client_timeout_s
        deadline_s = board.clock() + limit_s
        version = board.version
        try:
            while board.clock() < deadline_s:
                board.clients.forget_silent(board.policy.client_timeout_s, board.clock())
                if yields_to_requests and record.waiting:
                    break
                if board.clients.all_have_seen(version):
                    is_idle = not await self._requests_inside(record)
                    if is_idle and not board.clients.in_flight(record.model_id):
                        return True
                    if not is_patient:
                        break
                elif not is_patient and board.clients.in_flight(record.model_id):
                    break
                await board.changed.wait(board.policy.poll_s)
        except BaseException:
            board.set_state(record, ModelState.READY)
            raise
        board.touch(record)
        board.set_state(record, ModelState.READY)
        return False

    async def stop(self, record: ModelRecord, reason: UnloadReason | None = None) -> bool:
        """Stop a model and wait until its memory is back; False (state `failed`, memory still charged) when it stays.

        Args:
            record: The model.
            reason: Counted; None for what is left of a model that did not start or stop.
        """
        board = self._board
        board.set_state(record, ModelState.UNLOADING)
        before = await self.memory.quietly_live(record.spec.device)
        used_bytes = await self.memory.quietly_used(record)
        try:
            async with asyncio.timeout(board.policy.stop_timeout_s):
                await self._host.stop(record.model_id)
        except Exception as error:  # noqa: BLE001  # a host may fail in any way; the model's memory stays charged to it
            cause = _reason(error, f"it did not stop within {board.policy.stop_timeout_s:.0f} s")
            logger.warning("Unloading %s failed: %s", record.model_id, cause)
            self.fail(record, "stop", f"It could not be unloaded: {cause}")
            return False
        if reason is not None:
            board.metrics.unloads.labels(record.spec.device, reason).inc()
        await self.memory.wait_for_return(record, before, used_bytes)
        board.ledger.release(record.model_id)
        record.used_bytes = None
        record.loaded_at = None
        record.is_outdated = False
        board.set_state(record, ModelState.UNLOADED)
        logger.info("Unloaded %s.", record.model_id)
        return True

    async def measure(self, record: ModelRecord) -> None:
        """Look at what a ready model uses: its peak is kept, and growth is charged to it."""
        used_bytes = await self.memory.quietly_used(record)
        if used_bytes is None or record.state is not ModelState.READY:
            return
        if abs(used_bytes - (record.used_bytes or 0)) < UNCHANGED_BYTES:
            return  # What would be asked next makes the engine look at each page of its cache.
        record.used_bytes = used_bytes
        # A cache that fills later belongs to the peak; what the ledger still keeps free for the model is taken from `used_bytes`.
        self._peaks.record(record.spec, used_bytes + await self._host.unfilled_bytes(record.model_id))
        self._board.ledger.observe(record.model_id, record.spec.device, used_bytes)

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
