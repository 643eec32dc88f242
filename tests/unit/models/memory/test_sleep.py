"""Models on a GPU sleep instead of being ended, and wake with their next request."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.manager_state import LifecyclePolicy
from aihub.models.metrics import LifecycleMetrics
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, Hub, Ingress, running_hub, spec
from tests.unit.models.memory.virtual_time import now_s

A, B, C = (spec(name, 6, device="cuda:0") for name in ("a", "b", "c"))
SMALL = spec("small", 2, device="cuda:0")


@asynccontextmanager
async def gpu_hub(
    *specs: ModelSpec, ram_gib: float = 64, host: FakeHost | None = None, policy: LifecyclePolicy = POLICY, **options: Any
) -> AsyncIterator[Hub]:
    """A hub on a card of 10 GiB beside `ram_gib` of RAM."""
    host = host or FakeHost({"cuda:0": 10 * GIB, "cpu": int(ram_gib * GIB)})
    async with running_hub(*specs, host=host, policy=policy, budgets={"cuda:0": 10.0, "cpu": ram_gib}, **options) as hub:
        yield hub


async def test_unload_puts_the_model_to_sleep_and_its_next_request_wakes_it_without_a_load() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        status = await hub.lifecycle.unload("a")
        assert (status.state, status.sleeping_bytes) == ("sleeping", 4.5 * GIB)
        assert (await hub.clients[0].report()).ready == {}
        began_s = now_s()
        await hub.clients[0].ask("a", 0.0)
        assert now_s() - began_s < 1.0
        assert (hub.host.starts, hub.host.sleeps, hub.host.wakes) == (["a"], ["a"], ["a"])


async def test_sleeper_is_charged_for_its_weights_in_ram_and_for_what_it_keeps_of_the_card_as_measured() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        assert hub.ledger.held_bytes("a", "cpu") == 4.5 * GIB
        assert hub.ledger.held_bytes("a", "cuda:0") == hub.host.residual_bytes
        await hub.clients[0].ask("a")
        assert hub.ledger.held_bytes("a", "cuda:0") == 6 * GIB
        assert hub.ledger.held_bytes("a", "cpu") == 4.5 * GIB  # pinned for its next sleep
        await hub.lifecycle.unload("a", "full")
        assert hub.ledger.held_bytes("a") == 0


async def test_estimate_of_what_a_sleeper_keeps_counts_where_nobody_can_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cannot_tell(self: FakeHost, model_id: str) -> None:
        return None

    monkeypatch.setattr(FakeHost, "used_bytes", cannot_tell)
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        assert hub.ledger.held_bytes("a", "cuda:0") == 1 * GIB


async def test_full_unload_ends_an_awake_and_a_sleeping_model() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        assert (await hub.lifecycle.unload("a", "full")).state == "unloaded"
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        assert (await hub.lifecycle.unload("a", "sleep")).state == "sleeping"
        assert (await hub.lifecycle.unload("a", "full")).state == "unloaded"
        assert hub.ledger.held_bytes("a") == 0
        assert await hub.host.running() == set()


async def test_unload_on_a_cpu_is_a_full_one_and_says_so() -> None:
    async with running_hub(spec("a", 6)) as hub:
        await hub.clients[0].ask("a")
        assert (await hub.lifecycle.unload("a", "sleep")).state == "unloaded"
        assert hub.host.sleeps == []


async def test_forced_reload_of_a_sleeper_starts_it_anew() -> None:
    async with gpu_hub(A) as hub:
        await hub.lifecycle.load("a")
        await hub.lifecycle.unload("a")
        assert (await hub.lifecycle.load("a", force_reload=True)).state == "ready"
        assert (hub.host.starts, hub.host.wakes) == (["a", "a"], [])


async def test_models_that_make_room_sleep_and_swap_without_further_loads() -> None:
    async with gpu_hub(A, B, policy=replace(POLICY, min_residency_s=0.0)) as hub:
        for model_id in ("a", "b", "a", "b", "a"):
            await hub.clients[0].ask(model_id)
            assert await hub.ready() == {model_id}
        assert hub.host.starts == ["a", "b"]
        assert hub.host.wakes == ["a", "b", "a"]
        assert hub.host.most_used_bytes["cuda:0"] <= 10 * GIB


async def test_idle_model_sleeps_and_ends_after_a_long_sleep() -> None:
    policy = replace(POLICY, unload_timeout_s=60.0, sleep_timeout_s=600.0)
    async with gpu_hub(A, policy=policy) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(120)
        assert await hub.state("a") == "sleeping"
        await asyncio.sleep(400)
        assert await hub.state("a") == "sleeping"
        await asyncio.sleep(200)
        assert await hub.state("a") == "unloaded"
        assert await hub.host.running() == set()


async def test_sleeper_never_ends_by_time_alone_with_a_timeout_of_0() -> None:
    async with gpu_hub(A, policy=replace(POLICY, sleep_timeout_s=0.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        await asyncio.sleep(100_000)
        assert await hub.state("a") == "sleeping"


async def test_sleepers_do_not_count_as_loaded_models() -> None:
    one, two = (spec(name, 1.5, device="cuda:0") for name in ("one", "two"))
    async with gpu_hub(one, two, policy=replace(POLICY, max_concurrent_models=1, min_residency_s=0.0)) as hub:
        await hub.clients[0].ask("one")
        await hub.clients[0].ask("two")
        assert (await hub.state("one"), await hub.state("two")) == ("sleeping", "ready")
        await hub.clients[0].ask("one")
        assert (await hub.state("one"), await hub.state("two")) == ("ready", "sleeping")


async def test_least_recently_used_sleeper_ends_where_the_budget_of_ram_is_short_for_another() -> None:
    async with gpu_hub(A, B, C, ram_gib=10, policy=replace(POLICY, min_residency_s=0.0, sleep_margin_bytes=0)) as hub:
        for model_id in ("a", "b", "c"):
            await hub.clients[0].ask(model_id)
        assert [await hub.state(name) for name in ("a", "b", "c")] == ["sleeping", "sleeping", "ready"]
        await hub.lifecycle.unload("c")
        assert [await hub.state(name) for name in ("a", "b", "c")] == ["unloaded", "sleeping", "sleeping"]
        assert hub.host.most_used_bytes["cpu"] <= 10 * GIB


async def test_model_is_ended_where_no_ram_is_free_for_it() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        hub.host.foreign_bytes["cpu"] = 60 * GIB  # within the budget, but taken by somebody else
        assert (await hub.lifecycle.unload("a")).state == "unloaded"
        assert hub.host.sleeps == []


async def test_sleeper_ends_when_others_need_its_ram() -> None:
    async with gpu_hub(A, SMALL, policy=replace(POLICY, min_residency_s=0.0)) as hub:
        for model_id in ("a", "small"):
            await hub.clients[0].ask(model_id)
            await hub.lifecycle.unload(model_id)
        hub.host.foreign_bytes["cpu"] = 61 * GIB  # a training, say
        await asyncio.sleep(15)
        assert [await hub.state(name) for name in ("a", "small")] == ["unloaded", "sleeping"]


async def test_sleepers_end_when_what_they_keep_of_the_card_keeps_a_model_from_starting() -> None:
    large = spec("large", 9.8, device="cuda:0")
    async with gpu_hub(A, SMALL, large, policy=replace(POLICY, min_residency_s=0.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("small")
        await hub.lifecycle.unload("a")
        await hub.lifecycle.unload("small")
        await hub.clients[0].ask("large")
        assert await hub.ready() == {"large"}
        assert hub.ledger.held_bytes("a") == hub.ledger.held_bytes("small") == 0


async def test_awake_model_is_ended_where_its_sleep_would_not_free_enough() -> None:
    large = spec("large", 9.8, device="cuda:0")
    async with gpu_hub(A, large, policy=replace(POLICY, min_residency_s=0.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("large")
        assert (await hub.state("a"), hub.host.sleeps) == ("unloaded", [])


async def test_sleepers_stay_where_an_idle_model_makes_enough_room() -> None:
    async with gpu_hub(A, B, SMALL, policy=replace(POLICY, min_residency_s=0.0)) as hub:
        await hub.clients[0].ask("small")
        await hub.lifecycle.unload("small")
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("b")
        assert [await hub.state(name) for name in ("small", "a", "b")] == ["sleeping", "sleeping", "ready"]


async def test_many_requests_wake_a_sleeper_once_and_none_reaches_it_asleep() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        await asyncio.gather(*(hub.clients[0].ask("a") for _ in range(50)))
        assert hub.host.wakes == ["a"]


async def test_request_while_the_model_falls_asleep_wakes_it_afterwards() -> None:
    async with gpu_hub(A, policy=replace(POLICY, unload_timeout_s=30.0)) as hub:
        await hub.clients[0].ask("a")
        hub.host.wake_s = 5.0
        await hub.until("a", "unloading")
        await hub.clients[0].ask("a")
        assert (hub.host.sleeps, hub.host.wakes, hub.host.starts) == (["a"], ["a"], ["a"])


async def test_busy_model_does_not_fall_asleep() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        request = asyncio.create_task(hub.clients[0].ask("a", 10.0))
        await asyncio.sleep(0.1)
        await hub.lifecycle.unload("a")
        assert request.done()


async def test_client_that_leaves_while_its_model_wakes_changes_nothing() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        hub.host.wake_s = 5.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await hub.clients[0].ask("a")
        await asyncio.sleep(5)
        assert await hub.ready() == {"a"}


@pytest.mark.parametrize("level", ["sleep", "full"])
async def test_unload_goes_on_when_the_caller_leaves(level: Any) -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        hub.host.wake_s = hub.host.stop_s = 5.0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4.0):
                await hub.lifecycle.unload("a", level)
        assert await hub.state("a") == "unloading"
        await asyncio.sleep(10)
        assert await hub.state("a") == {"sleep": "sleeping", "full": "unloaded"}[level]
        await hub.clients[0].ask("a")


async def test_refused_unload_whose_caller_left_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        request = asyncio.create_task(hub.clients[0].ask("a", 60.0))
        await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await hub.lifecycle.unload("a")
        await request
    assert any("unload a did not succeed" in line for line in caplog.messages)
    assert "never retrieved" not in caplog.text


async def test_model_that_does_not_fall_asleep_is_ended() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        hub.host.sleep_failures["a"] = [ValueError("no room for pinned memory")]
        assert (await hub.lifecycle.unload("a")).state == "unloaded"
        assert hub.ledger.held_bytes("a") == 0


async def test_model_that_does_not_wake_is_loaded_anew_for_the_same_request() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        hub.host.wake_failures["a"] = [ValueError("the engine died")]
        await hub.clients[0].ask("a")
        assert hub.host.starts == ["a", "a"]
        assert hub.ledger.held_bytes("a", "cpu") == 0
        assert (await hub.model("a")).failure is None


async def test_wake_that_hangs_ends_in_a_load() -> None:
    async with gpu_hub(A, policy=replace(POLICY, sleep_change_timeout_s=20.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        hub.host.wake_s = 1e6
        await hub.clients[0].ask("a")
        assert hub.host.starts == ["a", "a"]


async def test_sleeper_that_neither_wakes_nor_ends_is_told_as_failed_and_stays_charged() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        hub.host.wake_failures["a"] = [ValueError("the engine died")]
        hub.host.stop_failures["a"] = [OSError("no answer")] * 5
        with pytest.raises(ModelUnavailableError):
            await hub.lifecycle.load("a")
        assert await hub.state("a") == "failed"
        assert hub.ledger.held_bytes("a", "cuda:0") == 6 * GIB


async def test_wake_waits_for_room_like_a_load() -> None:
    async with gpu_hub(A, B, policy=replace(POLICY, min_residency_s=0.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        await hub.clients[0].ask("b")
        request = asyncio.create_task(hub.clients[0].ask("b", 40.0))
        await asyncio.sleep(2)
        began_s = now_s()
        await hub.clients[0].ask("a")
        assert request.done()
        assert now_s() - began_s >= 38
        assert await hub.ready() == {"a"}


async def test_pinned_models_keep_a_sleeper_from_waking_and_the_answer_says_so() -> None:
    async with gpu_hub(A, B, policy=replace(POLICY, min_residency_s=0.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("b")
        await hub.lifecycle.pin("b")
        with pytest.raises(ModelUnavailableError, match="pinned"):
            await hub.clients[0].ask("a")
        assert await hub.state("a") == "sleeping"


async def test_sleeper_whose_replica_was_replaced_is_ended_before_it_takes_room_of_others() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        hub.host.sleepers.clear()  # Serve has started a new replica, which is awake
        await asyncio.sleep(15)
        assert await hub.state("a") == "unloaded"
        assert await hub.host.running() == set()


async def test_sleeper_that_was_lost_is_loaded_by_its_next_request() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        hub.host.lose("a")
        await asyncio.sleep(15)
        assert (await hub.state("a"), hub.ledger.held_bytes("a")) == ("unloaded", 0)
        await hub.clients[0].ask("a")
        assert hub.host.starts == ["a", "a"]


async def test_sleeper_of_an_older_version_ends_and_its_next_request_loads_the_new_one() -> None:
    async with gpu_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        hub.specs["a"] = replace(A, digest="new")
        await asyncio.sleep(20)
        assert await hub.state("a") == "unloaded"
        await hub.clients[0].ask("a")
        assert hub.host.specs["a"].digest == "new"


async def test_sleeper_that_was_removed_ends_and_is_forgotten() -> None:
    async with gpu_hub(A, B) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.unload("a")
        del hub.specs["a"]
        await asyncio.sleep(20)
        assert await hub.host.running() == set()
        assert {model.model_id for model in (await hub.lifecycle.status()).models} == {"b"}


async def test_restart_finds_a_sleeper_asleep_and_neither_loads_nor_asks_it() -> None:
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB})
    async with gpu_hub(A, B, host=host) as before:
        await before.clients[0].ask("a")
        await before.lifecycle.unload("a")
    assert before.desired.desired.loaded == ()  # it is not loaded at the next start
    async with gpu_hub(A, B, host=host, desired=before.desired.desired) as after:
        await asyncio.sleep(30)
        assert await after.state("a") == "sleeping"
        assert after.ledger.held_bytes("a", "cpu") == 4.5 * GIB
        assert after.ledger.held_bytes("a", "cuda:0") == host.residual_bytes
        await after.clients[0].ask("b")
        await after.lifecycle.unload("b")
        await after.clients[0].ask("a")
        assert (host.starts, host.wakes) == (["a", "b"], ["a"])


async def test_restart_while_a_model_falls_asleep_finds_it_as_its_host_says() -> None:
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB}, wake_s=5.0)
    async with gpu_hub(A, host=host) as before:
        await before.clients[0].ask("a")
        unload = asyncio.create_task(before.lifecycle.unload("a"))
        await before.until("a", "unloading")
        await asyncio.sleep(1)
    assert unload.cancelled()
    async with gpu_hub(A, host=host, desired=before.desired.desired) as after:
        assert await after.state("a") == "ready"
        await after.clients[0].ask("a")
        assert (await after.lifecycle.unload("a")).state == "sleeping"


async def test_restart_while_a_model_wakes_charges_what_it_holds_and_wakes_it_for_its_next_request() -> None:
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB}, wake_s=5.0)
    async with gpu_hub(A, host=host) as before:
        await before.clients[0].ask("a")
        await before.lifecycle.unload("a")
        load = asyncio.create_task(before.lifecycle.load("a"))
        await before.until("a", "loading")
        await asyncio.sleep(1)
    with pytest.raises(ModelUnavailableError, match="stopping"):
        await load
    async with gpu_hub(A, host=host, desired=before.desired.desired) as after:
        assert await after.state("a") == "sleeping"
        assert after.ledger.held_bytes("a", "cuda:0") == 6 * GIB  # half awake, as measured
        await after.clients[0].ask("a")
        assert (host.starts, host.wakes) == (["a"], ["a"])


async def test_restart_ends_a_model_that_does_not_say_whether_it_sleeps_and_loads_it_if_it_was_loaded() -> None:
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB})
    async with gpu_hub(A, host=host) as before:
        await before.clients[0].ask("a")
    host.silent.add("a")
    async with gpu_hub(A, host=host, desired=before.desired.desired) as after:
        await asyncio.sleep(20)
        assert host.starts == ["a", "a"]
        assert await after.ready() == {"a"}


async def test_sleeps_and_wakes_are_counted_and_are_no_loads() -> None:
    registry = CollectorRegistry()
    async with gpu_hub(A, B, policy=replace(POLICY, min_residency_s=0.0), metrics=LifecycleMetrics(registry)) as hub:
        for model_id in ("a", "b", "a"):
            await hub.clients[0].ask(model_id)
        await hub.lifecycle.unload("a")

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"device": "cuda:0"} | labels)

    assert value("aihub_model_load_seconds_count") == 2
    assert value("aihub_model_wake_seconds_count") == 1
    assert value("aihub_model_sleeps_total", reason="evicted") == 2
    assert value("aihub_model_sleeps_total", reason="requested") == 1
    assert value("aihub_model_unloads_total", reason="evicted") is None
    assert registry.get_sample_value("aihub_local_models", {"state": "sleeping"}) == 2


async def test_late_request_of_a_client_with_an_old_directory_keeps_the_model_awake() -> None:
    async with gpu_hub(A, policy=replace(POLICY, unload_timeout_s=60.0)) as hub:
        await hub.clients[0].ask("a")
        late = Ingress(hub.lifecycle, hub.host, "late")
        await late.report()
        keeps_reporting = asyncio.create_task(late.run())
        await hub.until("a", "draining")
        await late.ask("a", 3.0)  # `FakeHost` fails when it reaches a sleeper
        assert await hub.state("a") == "ready"
        keeps_reporting.cancel()
