"""A lifecycle on a fake device, and an ingress replica as its client."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aihub.models.memory.fake import FakeHost
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.kept_state import Desired, DesiredState, HighWaterMarks
from aihub.models.memory.ledger import MemoryLedger
from aihub.models.memory.manager import ModelLifecycle
from aihub.models.memory.manager_state import LifecyclePolicy
from aihub.models.memory.requirement import MemoryRequirement
from aihub.models.memory.state import Directory
from aihub.models.memory.status import ModelStatus
from aihub.models.metrics import LifecycleMetrics
from tests.unit.models.memory.virtual_time import now_s

GIB = 2**30
POLICY = LifecyclePolicy(live_margin_bytes=0)


def spec(model_id: str, size_gib: float, *, device: str = "cpu", **changes: Any) -> ModelSpec:
    requirement = MemoryRequirement(int(size_gib * GIB * 0.5), int(size_gib * GIB * 0.25), int(size_gib * GIB * 0.25))
    made = ModelSpec(model_id, f"local:{model_id}", Path("/models") / model_id, device, requirement, 4096, 16)
    return replace(made, **changes)


class DesiredInMemory(DesiredState):
    """Keeps the state without a disk."""

    def __init__(self, desired: Desired | None = None) -> None:
        super().__init__(Path("/nowhere"))
        self.desired = desired or Desired()

    async def read(self) -> Desired:
        return self.desired

    async def write(self, desired: Desired) -> None:
        self.desired = desired


@dataclass
class Hub:
    """Everything around one lifecycle."""

    specs: dict[str, ModelSpec]
    host: FakeHost
    ledger: MemoryLedger
    desired: DesiredInMemory
    lifecycle: ModelLifecycle
    clients: list["Ingress"] = field(default_factory=list)

    async def state(self, model_id: str) -> str:
        return (await self.model(model_id)).state.value

    async def until(self, model_id: str, state: str) -> None:
        """Return at the moment the model gets into the state."""
        record = self.lifecycle._manager_state.records[model_id]
        async with asyncio.timeout(1000.0):
            while record.state != state:
                await record.changed.wait(1000.0)

    async def model(self, model_id: str) -> ModelStatus:
        return await self.lifecycle.info(model_id)

    async def ready(self) -> set[str]:
        return {model.model_id for model in (await self.lifecycle.status()).models if model.state == "ready"}


class Ingress:
    """An ingress replica as the lifecycle demands it: reports every second, goes by its directory, else asks."""

    def __init__(self, lifecycle: ModelLifecycle, host: FakeHost, client_id: str = "ingress-1") -> None:
        self.lifecycle, self.host, self.client_id = lifecycle, host, client_id
        self.in_flight: Counter[str] = Counter()
        self._used: set[str] = set()
        self._directory: Directory | None = None
        self._received_s = 0.0

    async def run(self) -> None:
        while True:
            await self.report()
            await asyncio.sleep(1.0)

    async def report(self) -> Directory:
        used, self._used = self._used, set()
        seen = self._directory.version if self._directory else 0
        self._directory = await self.lifecycle.report(self.client_id, dict(self.in_flight), used, seen_version=seen)
        self._received_s = now_s()
        return self._directory

    async def ask(self, model_id: str, duration_s: float = 1.0) -> None:
        """Send one request; raises what `ensure` raises."""
        directory = self._directory
        is_fresh = directory is not None and now_s() - self._received_s < directory.lease_s
        if directory is None or not is_fresh or model_id not in directory.ready:
            await self.lifecycle.ensure(model_id)
        self.in_flight[model_id] += 1
        self._used.add(model_id)
        try:
            self.host.begin_request(model_id)
            try:
                await asyncio.sleep(duration_s)
            finally:
                self.host.end_request(model_id)
        finally:
            self.in_flight[model_id] -= 1


@asynccontextmanager
async def running_hub(
    *specs: ModelSpec,
    budget_gib: float = 10.0,
    total_gib: float = 64.0,
    policy: LifecyclePolicy = POLICY,
    host: FakeHost | None = None,
    desired: Desired | None = None,
    fixed: Mapping[str, float] | None = None,
    high_water_marks: HighWaterMarks | None = None,
    metrics: LifecycleMetrics | None = None,
    clients: int = 1,
    budgets: Mapping[str, float] | None = None,
    default_models: Set[str] = frozenset(),
) -> AsyncIterator[Hub]:
    """A started lifecycle with `clients` ingress replicas; at the end every model may still be loaded.

    Args:
        budgets: GiB by device, where they are not all `budget_gib`.
    """
    devices = sorted({one.device for one in specs} | {"cpu"})
    host = host or FakeHost({device: int(total_gib * GIB) for device in devices})
    budgets = budgets or dict.fromkeys(devices, budget_gib)
    ledger = MemoryLedger({device: int(size_gib * GIB) for device, size_gib in budgets.items()})
    for holder, size_gib in (fixed or {}).items():
        ledger.hold_fixed(holder, "cpu", int(size_gib * GIB))
    installed = {one.model_id: one for one in specs}
    memory = DesiredInMemory(desired)

    async def list_specs() -> dict[str, ModelSpec]:
        return installed

    lifecycle = ModelLifecycle(
        host,
        ledger,
        list_specs,
        policy=policy,
        desired=memory,
        high_water_marks=high_water_marks,
        metrics=metrics,
        default_models=default_models,
        clock=asyncio.get_running_loop().time,
    )
    await lifecycle.start()
    replicas = [Ingress(lifecycle, host, f"ingress-{number}") for number in range(clients)]
    tasks = [asyncio.create_task(replica.run()) for replica in replicas]
    try:
        yield Hub(installed, host, ledger, memory, lifecycle, replicas)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await lifecycle.close()
