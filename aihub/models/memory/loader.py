"""Bringing one model into memory and taking it out because somebody asks, and what is told to who cannot wait any longer."""

import asyncio
import logging
import math

from aihub.core.errors import ConflictError, HubError, ModelUnavailableError
from aihub.models.memory.admission import End, Evict, Start, Wait, admission_retry_s, next_step, refuse_impossible
from aihub.models.memory.manager_state import ManagerState
from aihub.models.memory.state import AT_REST, ModelRecord, ModelState, UnloadLevel
from aihub.models.memory.transitions import Transitions

logger = logging.getLogger(__name__)

CAN_START = AT_REST | {ModelState.SLEEPING}


class Loader:
    """Runs loads; those of one device come one at a time, in the order they were asked for."""

    def __init__(self, manager_state: ManagerState, transitions: Transitions) -> None:
        self._manager_state = manager_state
        self._transitions = transitions

    def begin(self, record: ModelRecord) -> "asyncio.Task[HubError | None]":
        """Start loading unless that is under way; the task's result is the error, if any."""
        if record.load is None or record.load.done():
            record.give_up = False
            record.load_asked_s = self._manager_state.clock()
            record.load = asyncio.create_task(self._load(record), name=f"load {record.model_id}")
            record.load.add_done_callback(lambda _: record.changed.notify())
            record.changed.notify()
        return record.load

    async def _load(self, record: ModelRecord) -> HubError | None:
        manager_state = self._manager_state
        try:
            async with manager_state.device_lock(record.spec.device).turn:
                await self._make_ready(record)
        except HubError as error:
            return self._give_up(record, error)
        except Exception:  # a host may fail in any way; requests get a stable message
            logger.exception("Loading %s failed.", record.model_id)
            message = (
                f"The model {record.model_id!r} could not be loaded because of an error inside the hub. The log has the details."
            )
            return self._give_up(record, ModelUnavailableError(message))
        return None

    def _give_up(self, record: ModelRecord, error: HubError) -> HubError:
        if not record.waiting:
            logger.warning("%s was not loaded: %s", record.model_id, error.message)
        record.is_restored = False
        return error

    async def _make_ready(self, record: ModelRecord) -> None:
        manager_state = self._manager_state
        device_lock = manager_state.device_lock(record.spec.device)
        began_s = manager_state.clock()
        while record.state is not ModelState.READY:
            waited_s = manager_state.clock() - began_s
            if record.give_up:
                raise ModelUnavailableError(f"The model {record.model_id!r} was unloaded on request. Try again.", retry_after_s=1)
            if record.state not in CAN_START:
                await manager_state.changed.wait(manager_state.policy.poll_s)  # it is being drained or stopped by somebody else
                continue
            if record.state in AT_REST and manager_state.ledger.held_bytes(record.model_id):
                await self._clear_away(record)
                continue
            live = await self._transitions.memory.live(record.spec.device)
            may_evict = not record.is_restored or record.waiting > 0
            step = next_step(record, manager_state, live, waited_s=waited_s, may_evict=may_evict)
            if not isinstance(step, Start) and waited_s >= manager_state.policy.room_timeout_s:
                raise ModelUnavailableError(
                    f"{step.reason} Nothing became free in {waited_s:.0f} s.",
                    retry_after_s=admission_retry_s(record, manager_state),
                )
            if isinstance(step, Wait):
                await manager_state.changed.wait(step.seconds)
            elif isinstance(step, Evict):
                await self._evict(step)
            elif isinstance(step, End):
                async with manager_state.device_lock(step.victim.spec.device).lock:
                    await self._transitions.sleeping.end(step.victim, "evicted")
            else:
                async with device_lock.lock:
                    await self._start_if_room(record, waited_s)

    async def _start_if_room(self, record: ModelRecord, waited_s: float) -> None:
        """Start or wake when there is still room now that the device is ours."""
        manager_state = self._manager_state
        live = await self._transitions.memory.live(record.spec.device)
        is_free = record.state in CAN_START and not record.give_up
        if not is_free or not isinstance(next_step(record, manager_state, live, waited_s=waited_s), Start):
            return
        if record.state is ModelState.SLEEPING:
            await self._transitions.wake(record)
        elif not manager_state.ledger.held_bytes(record.model_id):
            await self._transitions.start(record)

    async def _clear_away(self, record: ModelRecord) -> None:
        """Stop what an earlier failed stop has left in memory."""
        async with self._manager_state.device_lock(record.spec.device).lock:
            is_left = record.state in AT_REST and self._manager_state.ledger.held_bytes(record.model_id)
            if is_left and not await self._transitions.stop(record):
                raise ModelUnavailableError(
                    f"The model {record.model_id!r} could not be stopped, so it cannot be loaded anew. See its log.",
                    retry_after_s=self._transitions.retry_after_s(record),
                )

    async def _evict(self, step: Evict) -> None:
        victim = step.victim
        async with self._manager_state.device_lock(victim.spec.device).lock:
            if step.is_patient or not self._manager_state.is_busy(victim):
                await self._transitions.make_room(victim, is_patient=step.is_patient, reason="evicted", may_sleep=step.may_sleep)

    def refuse_hopeless(self, record: ModelRecord) -> None:
        """Refuse at once what cannot be loaded now.

        Raises:
            ModelUnavailableError: It can never fit, or its last start failed and the time for another has not come.
        """
        refuse_impossible(record, self._manager_state)
        failure = record.failure
        is_loading = record.load is not None and not record.load.done()
        if failure is None or is_loading or record.state is not ModelState.FAILED:
            return
        if self._manager_state.clock() < failure.retry_at_s:
            raise ModelUnavailableError(
                f"The model {record.model_id!r} could not be loaded: {failure.reason}",
                retry_after_s=self._transitions.retry_after_s(record),
            )


class Unloader:
    """Runs unloads to their end, also when the caller leaves: a model half unloaded would be of no use to anybody."""

    def __init__(self, manager_state: ManagerState, transitions: Transitions) -> None:
        self._manager_state = manager_state
        self._transitions = transitions
        self._tasks: set[asyncio.Task[None]] = set()

    async def unload(self, record: ModelRecord, level: UnloadLevel) -> None:
        """Return when the model sleeps or is gone; a load of it that waits for room is taken back.

        Raises:
            ConflictError: Its requests did not end in time.
            ModelUnavailableError: It could not be stopped.
        """
        task = asyncio.create_task(self._unload(record, level), name=f"unload {record.model_id}")
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Give up unloads under way; models stay as they are."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _note_end(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.info("%s did not succeed: %s", task.get_name(), error)  # the caller may have left

    async def _unload(self, record: ModelRecord, level: UnloadLevel) -> None:
        manager_state = self._manager_state
        record.give_up = True
        manager_state.changed.notify()
        async with manager_state.device_lock(record.spec.device).lock:
            if record.state is ModelState.READY and not await self._transitions.drain(record, is_patient=True):
                count = manager_state.clients.in_flight(record.model_id)
                raise ConflictError(
                    f"The model {record.model_id!r} still answers {count or 'some'} requests. Try again when they have ended.",
                    param="model_id",
                )
            record.is_displaced = record.returns_after_training = False
            if not await self._end(record, level):
                reason = record.failure.reason if record.failure else "unknown"
                raise ModelUnavailableError(f"The model {record.model_id!r} could not be unloaded: {reason}")

    async def _end(self, record: ModelRecord, level: UnloadLevel) -> bool:
        """Take a drained, sleeping or failed model out of memory; False when it stays."""
        if record.state is ModelState.DRAINING:
            return await self._transitions.unload(record, "requested", may_sleep=level == "sleep")
        is_asleep = record.state is ModelState.SLEEPING
        if self._manager_state.ledger.held_bytes(record.model_id) == 0 or (is_asleep and level == "sleep"):
            return True
        return await self._transitions.stop(record, "requested")


UNKNOWN_RETRY_S = 10
LONGEST_RETRY_S = 60
"""A request that comes too early waits again, and clients ignore longer times."""


def still_loading(record: ModelRecord, now_s: float) -> ModelUnavailableError:
    """Say for how long the model has been loaded by now, and when to try again.

    Args:
        record: The model; its load goes on.
        now_s: By the lifecycle's clock.
    """
    is_starting = record.state is ModelState.LOADING
    since_s = now_s - (record.load_began_s if is_starting else record.load_asked_s)
    usual_s = record.load_time_s
    left_s = (usual_s - since_s if is_starting else usual_s) if usual_s is not None else 0.0
    retry_after_s = min(math.ceil(left_s), LONGEST_RETRY_S) if left_s > 0 else UNKNOWN_RETRY_S
    doing = "is still being loaded" if is_starting else "still waits for memory"
    usual = f" (its last load took {usual_s:.0f} s)" if usual_s is not None and is_starting else ""
    return ModelUnavailableError(
        f"The model {record.model_id!r} {doing}, for {since_s:.0f} s so far{usual}. The load goes on: "
        f"try again in {retry_after_s} s.",
        code="model_loading",
        retry_after_s=retry_after_s,
    )
