"""A host without models: a device that only counts bytes. Used by tests and by anyone who wants to see the lifecycle move."""

import asyncio
from collections import Counter
from collections.abc import Mapping

from aihub.core.errors import InternalError, ModelUnavailableError
from aihub.models.memory.host import DeviceMemory, ModelSpec


class FakeHost:
    """Satisfies `ModelHost`; breaks loudly where the lifecycle breaks its promises.

    Args:
        total_bytes: Memory of each device.
        start_s: Time a start takes.
        stop_s: Time a stop takes.
        give_back_s: Time after a stop until the memory shows as free.

    Attributes:
        broken_promises: What the lifecycle did and must not; each was raised as an `InternalError` too.
        active: Requests inside each model.
        failures: Errors the next starts of a model raise.
        stop_failures: Errors the next stops of a model raise.
        sleep_failures: Errors the next tries to put a model to sleep raise.
        wake_failures: Errors the next tries to wake a model raise.
        sleepers: Models that sleep; their weights are on `cpu` from then on, and they keep `residual_bytes` of their device.
        silent: Running models that do not say whether they sleep.
        actual_bytes: What a model really takes, where that is not its requirement.
        foreign_bytes: Taken on each device by somebody else.
        most_used_bytes: The most memory ever used on each device.
        starts: Models in the order they were started.
        sleeps: Models in the order they fell asleep.
        wakes: Models in the order they were woken.
        lost: Models that died and were not started since.
    """

    def __init__(
        self,
        total_bytes: Mapping[str, int],
        *,
        start_s: float = 10.0,
        stop_s: float = 1.0,
        give_back_s: float = 1.0,
        wake_s: float = 0.5,
        residual_bytes: int = 2**29,
    ) -> None:
        self.total_bytes = dict(total_bytes)
        self.start_s, self.stop_s, self.give_back_s = start_s, stop_s, give_back_s
        self.wake_s, self.residual_bytes = wake_s, residual_bytes
        self.broken_promises: list[str] = []
        self.active: Counter[str] = Counter()
        self.failures: dict[str, list[Exception]] = {}
        self.stop_failures: dict[str, list[Exception]] = {}
        self.sleep_failures: dict[str, list[Exception]] = {}
        self.wake_failures: dict[str, list[Exception]] = {}
        self.sleepers: set[str] = set()
        self.silent: set[str] = set()
        self.sleeps: list[str] = []
        self.wakes: list[str] = []
        self.actual_bytes: dict[str, int] = {}
        self.foreign_bytes: Counter[str] = Counter()
        self.most_used_bytes: Counter[str] = Counter()
        self.unfilled: Counter[str] = Counter()
        self.starts: list[str] = []
        self.specs: dict[str, ModelSpec] = {}
        self.lost: set[str] = set()
        self._starting: Counter[str] = Counter()
        self._used: dict[str, tuple[str, int]] = {}
        self._weights: dict[str, int] = {}

    async def start(self, spec: ModelSpec) -> None:
        if self._starting[spec.device] or spec.model_id in self._used:
            raise self._broken(f"{spec.model_id} was started beside another start on {spec.device}, or twice.")
        self._starting[spec.device] += 1
        self.starts.append(spec.model_id)
        try:
            size_bytes = self.actual_bytes.get(spec.model_id, spec.requirement.total_bytes)
            self._take(spec.model_id, spec.device, size_bytes)
            await asyncio.sleep(self.start_s)
            if self.failures.get(spec.model_id):
                raise self.failures[spec.model_id].pop(0)
            self.specs[spec.model_id] = spec
            self.lost.discard(spec.model_id)
        finally:
            self._starting[spec.device] -= 1

    async def stop(self, model_id: str) -> None:
        if self.active[model_id]:
            raise self._broken(f"{model_id} was stopped with {self.active[model_id]} requests in flight.")
        if self.stop_failures.get(model_id):
            raise self.stop_failures[model_id].pop(0)
        self.specs.pop(model_id, None)
        self.sleepers.discard(model_id)
        await asyncio.sleep(self.stop_s)
        if self.active[model_id]:
            raise self._broken(f"{model_id} got a request while it was stopped.")
        asyncio.get_running_loop().call_later(self.give_back_s, self._give_back, model_id, self._used.get(model_id))

    def can_sleep(self, spec: ModelSpec) -> bool:
        return spec.device != "cpu"

    async def sleep(self, model_id: str) -> None:
        spec = self.specs[model_id]
        if self.active[model_id] or model_id in self.sleepers or spec.device == "cpu":
            raise self._broken(f"{model_id} cannot sleep: busy, asleep or on a CPU.")
        await asyncio.sleep(self.wake_s)
        if self.active[model_id]:
            raise self._broken(f"{model_id} got a request while it fell asleep.")
        if self.sleep_failures.get(model_id):
            raise self.sleep_failures[model_id].pop(0)
        self._weights[model_id] = spec.requirement.weights_bytes
        self._check("cpu")
        self._take(model_id, spec.device, self.residual_bytes)
        self.sleepers.add(model_id)
        self.sleeps.append(model_id)

    async def wake(self, model_id: str) -> None:
        spec = self.specs[model_id]
        if self._starting[spec.device] or model_id not in self.sleepers:
            raise self._broken(f"{model_id} was woken beside a start on {spec.device}, or is awake.")
        self._starting[spec.device] += 1
        try:
            self._take(model_id, spec.device, self.actual_bytes.get(model_id, spec.requirement.total_bytes))
            await asyncio.sleep(self.wake_s)
            if self.wake_failures.get(model_id):
                raise self.wake_failures[model_id].pop(0)
            self.sleepers.discard(model_id)
            self.wakes.append(model_id)
        finally:
            self._starting[spec.device] -= 1

    async def is_sleeping(self, model_id: str) -> bool:
        if model_id in self.silent:
            raise ModelUnavailableError(f"{model_id} does not answer.")
        return model_id in self.sleepers

    async def running(self) -> set[str]:
        return set(self.specs)

    async def active_requests(self, model_id: str) -> int:
        return self.active[model_id]

    async def used_bytes(self, model_id: str) -> int | None:
        return self._used[model_id][1] if model_id in self._used else None

    async def unfilled_bytes(self, model_id: str) -> int:
        return self.unfilled[model_id]

    async def device_memory(self) -> list[DeviceMemory]:
        return [DeviceMemory(device, total, total - self._used_on(device)) for device, total in self.total_bytes.items()]

    def begin_request(self, model_id: str) -> None:
        """Count a request in; a model that is not running refuses it."""
        if model_id in self.lost:
            raise ModelUnavailableError(f"{model_id} has died.")
        if model_id not in self.specs:
            raise self._broken(f"A request reached {model_id}, which does not run.")
        if model_id in self.sleepers:
            raise self._broken(f"A request reached {model_id}, which sleeps.")
        self.active[model_id] += 1

    def end_request(self, model_id: str) -> None:
        self.active[model_id] -= 1

    def take_foreign(self, device: str, size_bytes: int) -> None:
        """Let somebody else take memory of a device; a negative size gives it back."""
        self.foreign_bytes[device] += size_bytes
        self._check(device)

    def _broken(self, promise: str) -> InternalError:
        self.broken_promises.append(promise)
        return InternalError(promise)

    def lose(self, model_id: str) -> None:
        """End a model as a crash would."""
        self.specs.pop(model_id, None)
        self._used.pop(model_id, None)
        self._weights.pop(model_id, None)
        self.sleepers.discard(model_id)
        self.active[model_id] = 0
        self.lost.add(model_id)

    def _give_back(self, model_id: str, memory: tuple[str, int] | None) -> None:
        if self._used.get(model_id) is memory:
            self._used.pop(model_id, None)
            self._weights.pop(model_id, None)

    def _used_on(self, device: str) -> int:
        of_models = sum(size for owner, size in self._used.values() if owner == device)
        return self.foreign_bytes[device] + of_models + (sum(self._weights.values()) if device == "cpu" else 0)

    def _take(self, model_id: str, device: str, size_bytes: int) -> None:
        self._used[model_id] = (device, size_bytes)
        self._check(device)

    def _check(self, device: str) -> None:
        used = self._used_on(device)
        self.most_used_bytes[device] = max(self.most_used_bytes[device], used)
        if used > self.total_bytes[device]:
            raise self._broken(f"{device} is out of memory: {used} of {self.total_bytes[device]} bytes.")
