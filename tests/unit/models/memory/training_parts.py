"""A training on the fake device: it asks for room as the scheduler does, and takes its memory once it has it."""

import asyncio
from dataclasses import dataclass

from tests.unit.models.memory.lifecycle_parts import GIB, Hub
from tests.unit.models.memory.virtual_time import now_s

ASK_AGAIN_S = 1.0


@dataclass
class FakeTraining:
    """One job; `name` is its holder."""

    hub: Hub
    name: str
    size_gib: float
    may_drain: bool = False
    device: str = "cpu"
    started_s: float | None = None

    async def ask(self) -> str | None:
        room = self.hub.lifecycle.training_room
        reason = await room.take(self.name, int(self.size_gib * GIB), may_drain=self.may_drain)
        if reason is None and self.started_s is None:
            self.started_s = now_s()
            self.hub.host.take_foreign(self.device, int(self.size_gib * GIB))
        return reason

    async def start(self, timeout_s: float = 1000.0) -> None:
        """Ask until there is room."""
        async with asyncio.timeout(timeout_s):
            while await self.ask() is not None:  # noqa: ASYNC110  # nothing tells a training that there is room
                await asyncio.sleep(ASK_AGAIN_S)

    async def end(self, *, gives_back_s: float = 0.0) -> None:
        """End as a kill does: the scheduler notices, and the memory comes back after a while."""
        if self.started_s is not None:
            size_bytes = -int(self.size_gib * GIB)
            asyncio.get_running_loop().call_later(gives_back_s, self.hub.host.take_foreign, self.device, size_bytes)
        self.started_s = None
        await self.hub.lifecycle.training_room.release(self.name)
