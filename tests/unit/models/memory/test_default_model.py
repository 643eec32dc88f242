"""The profile's default models: kept while nobody needs their room, and brought back."""

import asyncio
from dataclasses import replace

import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.kept_state import Desired
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, running_hub, spec

A, B = spec("a", 6), spec("b", 6)
IDLE = replace(POLICY, unload_timeout_s=60.0, min_residency_s=0.0)


async def test_default_model_outlives_any_idle_time_and_others_do_not() -> None:
    async with running_hub(A, spec("small", 2), policy=IDLE, default_models={"a"}) as hub:
        await hub.clients[0].ask("small")
        await asyncio.sleep(10_000)
        assert await hub.ready() == {"a"}


async def test_default_model_makes_room_for_another_and_comes_back_when_that_is_gone() -> None:
    async with running_hub(A, B, policy=IDLE, default_models={"a"}) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("b")
        assert await hub.ready() == {"b"}
        await asyncio.sleep(40)
        assert await hub.ready() == {"b"}  # its room is not taken back
        await asyncio.sleep(60)
        assert await hub.ready() == {"a"}


async def test_displaced_default_model_on_a_gpu_is_woken_when_the_other_sleeps() -> None:
    on_gpu = [replace(one, device="cuda:0") for one in (A, B)]
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB})
    budgets = {"cuda:0": 10.0, "cpu": 32.0}
    async with running_hub(*on_gpu, policy=IDLE, host=host, budgets=budgets, default_models={"a"}) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("b")
        await asyncio.sleep(10_000)
        assert await hub.ready() == {"a"}
        assert (host.starts, host.wakes) == (["a", "b"], ["a"])


async def test_default_model_that_was_unloaded_on_request_stays_away_until_it_is_asked() -> None:
    async with running_hub(A, policy=IDLE, default_models={"a"}) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        await asyncio.sleep(1000)
        assert await hub.ready() == set()
        await hub.clients[0].ask("a")


async def test_each_start_loads_the_default_model_after_those_that_were_loaded() -> None:
    small = spec("small", 2)
    async with running_hub(A, small, default_models={"a"}, desired=Desired(loaded=("small",))) as hub:
        await asyncio.sleep(30)
        assert hub.host.starts == ["small", "a"]


async def test_start_does_not_push_a_loaded_model_out_for_the_default_one() -> None:
    async with running_hub(A, B, default_models={"a"}, desired=Desired(loaded=("b",))) as hub:
        await asyncio.sleep(120)
        assert hub.host.starts == ["b"]
        assert not (await hub.model("a")).is_starting


async def test_only_the_load_of_a_start_shows_as_starting() -> None:
    async with running_hub(A, B, policy=IDLE, default_models={"a"}) as hub:
        await asyncio.sleep(1)
        assert (await hub.model("a")).is_starting
        await hub.clients[0].ask("a")
        assert not (await hub.model("a")).is_starting
        await hub.clients[0].ask("b")
        back = asyncio.create_task(hub.clients[0].ask("a"))
        await hub.until("a", "loading")
        assert not (await hub.model("a")).is_starting
        await back


async def test_failed_start_of_the_default_model_ends_the_starting_and_tells_why() -> None:
    host = FakeHost({"cpu": 64 * GIB})
    host.failures["a"] = [ValueError("weights are gone")]
    async with running_hub(A, host=host, default_models={"a"}) as hub:
        with pytest.raises(ModelUnavailableError, match="weights are gone"):
            await hub.clients[0].ask("a")
        await asyncio.sleep(0.1)
        model = await hub.model("a")
        assert (model.state, model.is_starting, model.failure) == ("failed", False, "ValueError: weights are gone")
