"""What a request is told that stops waiting for a load, and what it leaves behind."""

import asyncio

import pytest

from aihub.core.errors import ModelUnavailableError
from tests.unit.models.memory.lifecycle_parts import POLICY, Hub, running_hub, spec
from tests.unit.models.memory.virtual_time import now_s

A, B = spec("a", 6), spec("b", 6)


async def refusal(hub: Hub, model_id: str, wait_s: float) -> ModelUnavailableError:
    began_s = now_s()
    with pytest.raises(ModelUnavailableError) as caught:
        await hub.lifecycle.ensure(model_id, wait_s=wait_s)
    assert now_s() - began_s == pytest.approx(wait_s)
    assert caught.value.code == "model_loading"
    return caught.value


async def test_limited_wait_ends_in_time_and_the_load_goes_on() -> None:
    async with running_hub(A) as hub:
        told = await refusal(hub, "a", 4.0)
        assert "'a' is still being loaded, for 4 s so far." in told.message
        assert told.retry_after_s == 10
        await hub.until("a", "ready")
        assert hub.host.starts == ["a"]


async def test_second_request_is_told_how_long_the_load_has_lasted_not_its_own_wait() -> None:
    async with running_hub(A) as hub:
        await refusal(hub, "a", 4.0)
        assert "for 8 s so far" in (await refusal(hub, "a", 4.0)).message


async def test_retry_after_is_what_is_left_of_the_usual_load_time() -> None:
    async with running_hub(A) as hub:
        await hub.lifecycle.load("a")
        await hub.lifecycle.unload("a")
        told = await refusal(hub, "a", 4.0)
        assert "its last load took 10 s" in told.message
        assert told.retry_after_s == 6


async def test_retry_after_is_at_least_a_second_when_a_load_takes_longer_than_usual() -> None:
    async with running_hub(A) as hub:
        await hub.lifecycle.load("a")
        await hub.lifecycle.unload("a")
        hub.host.start_s = 100.0
        assert (await refusal(hub, "a", 50.0)).retry_after_s == 10


async def test_retry_after_is_never_longer_than_clients_heed() -> None:
    async with running_hub(A) as hub:
        hub.host.start_s = 200.0
        await hub.lifecycle.load("a")
        await hub.lifecycle.unload("a")
        assert (await refusal(hub, "a", 50.0)).retry_after_s == 60


async def test_request_behind_another_model_is_told_that_it_waits_for_memory() -> None:
    async with running_hub(A, B, policy=POLICY) as hub:
        await hub.lifecycle.load("a")  # its residency holds b back
        assert "'b' still waits for memory, for 5 s so far." in (await refusal(hub, "b", 5.0)).message
        await hub.until("b", "ready")


async def test_limit_beyond_the_policys_changes_nothing() -> None:
    async with running_hub(A) as hub:
        hub.host.start_s = 1000.0
        began_s = now_s()
        with pytest.raises(ModelUnavailableError):
            await hub.lifecycle.ensure("a", wait_s=5000.0)
        assert now_s() - began_s == pytest.approx(POLICY.wait_timeout_s)


async def test_sixty_four_that_leave_are_all_counted_out_and_the_load_goes_on() -> None:
    async with running_hub(A) as hub:
        waiting = [asyncio.create_task(hub.lifecycle.ensure("a")) for _ in range(64)]
        await asyncio.sleep(1)
        assert (await hub.model("a")).waiting == 64
        for task in waiting[1:]:
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (await hub.model("a")).waiting == 1
        assert (await waiting[0]).model_id == "a"
        assert hub.host.starts == ["a"]
