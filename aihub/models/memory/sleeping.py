"""Sleep of models on a GPU: weights move to RAM and back, and sleepers end when RAM is short. Callers hold the device's lock."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aihub.core.errors import HubError
from aihub.models.memory.host import DeviceMemory, ModelHost
from aihub.models.memory.ledger import gib
from aihub.models.memory.manager_state import RAM, ManagerState
from aihub.models.memory.state import ModelRecord, ModelState
from aihub.models.metrics import UnloadReason

logger = logging.getLogger(__name__)

GIVEN_BACK = 0.9
"""Share of freed memory that must show as free again; drivers keep a little."""


class HostMemory:
    """Reads live memory of devices and models."""

    def __init__(self, manager_state: ManagerState, host: ModelHost) -> None:
        self._manager_state = manager_state
        self._host = host

    async def live(self, device: str) -> DeviceMemory | None:
        """Memory of a device now; None when the host cannot tell."""
        return next((memory for memory in await self._host.device_memory() if memory.device == device), None)

    async def quietly_live(self, device: str) -> DeviceMemory | None:
        """As `live`; a failure is logged and counts as None."""
        try:
            return await self.live(device)
        except HubError as error:
            logger.warning("The memory of %s cannot be read: %s", device, error.message)
            return None

    async def quietly_used(self, record: ModelRecord) -> int | None:
        """What a model holds of its device; None when that cannot be told."""
        try:
            return await self._host.used_bytes(record.model_id)
        except HubError as error:
            logger.warning("The memory of %s cannot be read: %s", record.model_id, error.message)
            return None

    async def wait_for_return(self, record: ModelRecord, before: DeviceMemory | None, freed_bytes: int | None) -> None:
        """Return once the device shows `freed_bytes` more free memory than `before`, or after the policy's time."""
        if before is None or not freed_bytes:
            return
        manager_state = self._manager_state
        target_bytes = min(before.free_bytes + int(freed_bytes * GIVEN_BACK), before.total_bytes)
        deadline_s = manager_state.clock() + manager_state.policy.release_timeout_s
        while manager_state.clock() < deadline_s:
            now = await self.quietly_live(record.spec.device)
            if now is None or now.free_bytes >= target_bytes:
                return
            await asyncio.sleep(manager_state.policy.poll_s)
        # Others may have taken it meanwhile; admission looks at live memory, so nothing is given out twice.
        logger.warning("%s: %s did not come back on %s.", record.model_id, gib(freed_bytes), record.spec.device)


class Sleeping:
    """Puts models to sleep and wakes them.

    Args:
        stop: Ends a model wholly; False when it stays. A None as reason is not counted.
    """

    def __init__(
        self,
        manager_state: ManagerState,
        host: ModelHost,
        memory: HostMemory,
        stop: Callable[[ModelRecord, UnloadReason | None], Awaitable[bool]],
    ) -> None:
        self._manager_state = manager_state
        self._host = host
        self._memory = memory
        self._stop = stop

    async def put_to_sleep(self, record: ModelRecord, reason: UnloadReason) -> bool:
        """Let a drained model sleep; False when it has to be stopped instead, its memory still charged.

        Its weights are charged to RAM before they get there. Sleepers that were used less recently end when they hold the
        RAM it needs.
        """
        manager_state, spec = self._manager_state, record.spec
        manager_state.set_state(record, ModelState.UNLOADING)
        if not manager_state.may_sleep(record) or not await self._reserve_ram(record):
            return False
        began_s = manager_state.clock()
        try:
            async with asyncio.timeout(manager_state.policy.sleep_change_timeout_s):
                await self._host.sleep(record.model_id)
        except Exception as error:  # noqa: BLE001  # a host may fail in any way; the caller stops the model
            logger.warning("%s does not sleep and is stopped: %s", record.model_id, str(error) or type(error).__name__)
            manager_state.metrics.failures.labels(spec.device, "sleep").inc()
            manager_state.ledger.release(record.model_id, RAM)
            return False
        self.enter_sleeping(record)
        await self.measure(record)
        manager_state.metrics.sleeps.labels(spec.device, reason).inc()
        logger.info("%s sleeps; falling asleep took %.1f s.", record.model_id, manager_state.clock() - began_s)
        return True

    def enter_sleeping(self, record: ModelRecord) -> None:
        """Charge a model that sleeps for what it keeps: its weights in RAM and a little of its device."""
        manager_state, spec = self._manager_state, record.spec
        manager_state.ledger.adopt(record.model_id, spec.device, manager_state.residual_bytes(record))
        manager_state.ledger.adopt(record.model_id, RAM, manager_state.sleep_bytes(record))
        record.asleep_s = manager_state.clock()
        record.loaded_at = None
        record.used_bytes = None
        manager_state.set_state(record, ModelState.SLEEPING)

    async def measure(self, record: ModelRecord) -> None:
        """Replace the estimate of what a sleeper keeps of its device by what it is seen to hold."""
        used_bytes = await self._memory.quietly_used(record)
        if used_bytes is None or record.state is not ModelState.SLEEPING:
            return
        record.used_bytes = record.residual_bytes = used_bytes
        self._manager_state.ledger.adopt(record.model_id, record.spec.device, used_bytes)
        self._manager_state.ledger.observe(record.model_id, record.spec.device, used_bytes)

    async def wake(self, record: ModelRecord) -> bool:
        """Wake a sleeper for which there is room; False when it did not wake and was stopped, so that it can be started.

        Its RAM stays charged until it ends: torch keeps what it has pinned for the next sleep.
        """
        manager_state, spec = self._manager_state, record.spec
        manager_state.ledger.enlarge(record.model_id, spec.device, record.need_bytes)
        manager_state.set_state(record, ModelState.LOADING)
        began_s = manager_state.clock()
        try:
            async with asyncio.timeout(manager_state.policy.sleep_change_timeout_s):
                await self._host.wake(record.model_id)
        except Exception as error:  # noqa: BLE001  # a host may fail in any way; a cold start is still possible
            logger.warning("%s does not wake and is loaded anew: %s", record.model_id, str(error) or type(error).__name__)
            manager_state.metrics.failures.labels(spec.device, "wake").inc()
            await self._stop(record, None)
            return False
        record.failure = None
        record.used_bytes = None
        manager_state.metrics.wake_seconds.labels(spec.device).observe(manager_state.clock() - began_s)
        logger.info("%s is awake again after %.1f s.", record.model_id, manager_state.clock() - began_s)
        return True

    async def keep_ram_free(self) -> None:
        """End the least recently used sleeper when others need the RAM it sleeps in; takes the lock of its device itself."""
        manager_state = self._manager_state
        sleepers = [record for record in self._sleepers() if not manager_state.device_lock(record.spec.device).lock.locked()]
        live = await self._memory.quietly_live(RAM) if sleepers else None
        if live is not None and live.free_bytes < manager_state.policy.sleep_margin_bytes:
            async with manager_state.device_lock(sleepers[0].spec.device).lock:
                await self.end(sleepers[0], "ram")

    async def end(self, record: ModelRecord, reason: UnloadReason) -> None:
        """Stop a model wholly if it still sleeps."""
        if record.state is ModelState.SLEEPING:
            await self._stop(record, reason)

    async def _reserve_ram(self, record: ModelRecord) -> bool:
        """Charge RAM for the weights, ending less recently used sleepers of the same device where it is short."""
        manager_state, size_bytes = self._manager_state, self._manager_state.sleep_bytes(record)
        while not manager_state.ledger.held_bytes(record.model_id, RAM):
            live = await self._memory.quietly_live(RAM)
            shortage_bytes = max(
                manager_state.ledger.budget_shortage_bytes(RAM, size_bytes),
                manager_state.ledger.live_shortage_bytes(RAM, size_bytes, live, manager_state.policy.sleep_margin_bytes),
            )
            if not shortage_bytes:
                manager_state.ledger.reserve(record.model_id, RAM, size_bytes)
                break
            older = [
                other
                for other in self._sleepers()
                if other.used_s <= record.used_s and other.spec.device == record.spec.device and not other.waiting
            ]
            if sum(manager_state.ledger.held_bytes(other.model_id, RAM) for other in older) < shortage_bytes:
                logger.info("%s is not put to sleep: RAM lacks %s.", record.model_id, gib(shortage_bytes))
                return False
            if not await self._stop(older[0], "ram"):
                return False
        return True

    def _sleepers(self) -> list[ModelRecord]:
        """Sleeping models, least recently used first."""
        sleepers = [record for record in self._manager_state.records.values() if record.state is ModelState.SLEEPING]
        return sorted(sleepers, key=lambda record: record.used_s)
