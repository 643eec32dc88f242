import asyncio
import os
from pathlib import Path
from typing import Any

from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.models.memory.generation_defaults import GenerationDefaultsInForce, GenerationDefaultsStore
from deployments.model_host import ServeModelHost

MODEL = "smollm2"


class HostWithReplica(ServeModelHost):
    """A host whose replica is an object here. `slow_s` is how long it takes to hear of defaults, by call."""

    def __init__(self, defaults: GenerationDefaultsInForce, slow_s: list[float] | None = None) -> None:
        super().__init__(load_profile("cpu"), defaults.read)
        self.slow_s = slow_s or []
        self.process_id = os.getpid()
        self.replica_defaults: dict[str, Any] | None = None

    async def call(self, model_id: str, method: str, *args: Any) -> Any:
        if method == "process_ids":
            return [self.process_id]
        assert (model_id, method) == (MODEL, "set_generation_defaults")
        await asyncio.sleep(self.slow_s.pop(0) if self.slow_s else 0)
        self.replica_defaults = args[0]
        return None


def defaults_of(folder: Path) -> GenerationDefaultsInForce:
    store = GenerationDefaultsStore(folder / "generation.json")
    return GenerationDefaultsInForce(store, Settings(), load_profile("cpu").generation, {}.get)


async def test_of_two_changes_at_a_time_the_replica_keeps_what_is_in_force(tmp_path: Path) -> None:
    defaults = defaults_of(tmp_path)
    host = HostWithReplica(defaults, slow_s=[0.1, 0.0])

    async def change(value: int) -> None:
        defaults.update(MODEL, {"max_tokens": value})
        await host.apply_defaults(MODEL)

    await asyncio.gather(change(1), change(2))
    assert host.replica_defaults == defaults.read(MODEL)


async def test_replica_that_serve_has_put_in_place_of_another_hears_of_earlier_changes(tmp_path: Path) -> None:
    defaults = defaults_of(tmp_path)
    host = HostWithReplica(defaults)
    assert await host.used_bytes(MODEL)
    defaults.update(MODEL, {"max_tokens": 3})
    await host.apply_defaults(MODEL)
    host.replica_defaults = None
    process = await asyncio.create_subprocess_exec("sleep", "60")
    host.process_id = process.pid
    host._process_ids[MODEL] = [2**22 + 1]  # above the kernel's largest id: nothing lives there
    assert await host.used_bytes(MODEL)
    assert host.replica_defaults == defaults.read(MODEL)
    assert host.replica_defaults["max_tokens"] == 3
    process.kill()
    await process.wait()
