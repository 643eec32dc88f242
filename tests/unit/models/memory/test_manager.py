"""Behaviour of the lifecycle on a fake device, in virtual time."""

import asyncio
from dataclasses import replace

import pytest

from aihub.core.errors import ConflictError, HubError, ModelUnavailableError, NotFoundError, OverloadedError
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, Ingress, running_hub, spec
from tests.unit.models.memory.virtual_time import now_s

A, B, SMALL = spec("a", 6), spec("b", 6), spec("small", 2)


async def settle(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def test_first_request_loads_the_model_and_the_next_needs_no_ensure() -> None:
    async with running_hub(A) as hub:
        client = hub.clients[0]
        await client.ask("a")
        directory = await client.report()
        assert set(directory.ready) == {"a"}
        await client.ask("a")
        assert hub.host.starts == ["a"]


async def test_many_first_requests_start_the_model_once() -> None:
    async with running_hub(A) as hub:
        await asyncio.gather(*(hub.clients[0].ask("a") for _ in range(50)))
        assert hub.host.starts == ["a"]


async def test_models_that_fit_together_stay_together() -> None:
    async with running_hub(A, SMALL) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("small")
        assert await hub.ready() == {"a", "small"}


async def test_two_models_alternate_under_a_budget_that_holds_one() -> None:
    async with running_hub(A, B) as hub:
        for model_id in ("a", "b", "a", "b"):
            await hub.clients[0].ask(model_id)
            assert await hub.ready() == {model_id}
        assert hub.host.starts == ["a", "b", "a", "b"]
        assert hub.host.most_used_bytes["cpu"] == 6 * GIB


async def test_alternating_requests_do_not_thrash() -> None:
    async with running_hub(A, B, policy=replace(POLICY, min_residency_s=60.0)) as hub:

        async def keep_asking(model_id: str) -> None:
            while True:
                await hub.clients[0].ask(model_id, 0.5)

        tasks = [asyncio.create_task(keep_asking(name)) for name in ("a", "b")]
        await asyncio.sleep(400)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert 4 <= len(hub.host.starts) <= 8  # one change at most every 60 s of residency and 10 s of loading
        assert {"a", "b"} == set(hub.host.starts)


async def test_the_least_recently_used_model_goes_first() -> None:
    old, recent, new = spec("old", 4), spec("recent", 4), spec("new", 4)
    async with running_hub(old, recent, new) as hub:
        await hub.clients[0].ask("recent")
        await hub.clients[0].ask("old")
        await settle(40)
        await hub.clients[0].ask("recent")
        await settle(5)
        await hub.clients[0].ask("new")
        assert await hub.ready() == {"recent", "new"}


async def test_no_more_is_evicted_than_the_bytes_need() -> None:
    tiny, big, new = spec("tiny", 1), spec("big", 7), spec("new", 6)
    async with running_hub(tiny, big, new) as hub:
        await hub.clients[0].ask("tiny")
        await hub.clients[0].ask("big")
        await settle(40)
        await hub.clients[0].ask("new")
        assert await hub.ready() == {"tiny", "new"}


async def test_nothing_is_evicted_when_it_would_not_be_enough() -> None:
    async with running_hub(A, SMALL, spec("huge", 9)) as hub:
        await hub.clients[0].ask("small")
        await hub.lifecycle.pin("small")
        await hub.clients[0].ask("a")
        await settle(40)
        with pytest.raises(ModelUnavailableError, match=r"9\.0 GiB on cpu; pinned models \(small\) leave 8\.0 GiB"):
            await hub.clients[0].ask("huge")
        assert await hub.ready() == {"a", "small"}


async def test_busy_model_is_not_evicted_while_its_request_runs() -> None:
    async with running_hub(A, B) as hub:
        client = hub.clients[0]
        await client.ask("a")
        await settle(40)
        long_request = asyncio.create_task(client.ask("a", 60.0))
        await settle(3)
        began_s = now_s()
        await client.ask("b")
        assert long_request.done()
        assert now_s() - began_s >= 56
        await long_request


async def test_request_seen_by_the_engine_alone_keeps_the_model() -> None:
    async with running_hub(A, B, policy=replace(POLICY, room_timeout_s=40.0)) as hub:
        await hub.clients[0].ask("a")
        await settle(40)
        hub.host.begin_request("a")  # by a handle, past every ingress
        with pytest.raises(ModelUnavailableError, match="Nothing became free") as caught:
            await hub.clients[0].ask("b")
        assert caught.value.retry_after_s
        assert await hub.ready() == {"a"}


async def test_request_begun_on_an_old_directory_during_the_drain_keeps_the_model() -> None:
    async with running_hub(A, B) as hub:
        await hub.clients[0].ask("a")
        late = Ingress(hub.lifecycle, hub.host, "late")
        await late.report()
        await settle(40)
        await late.report()
        waiting = asyncio.create_task(hub.clients[0].ask("b"))
        await hub.until("a", "draining")
        request = asyncio.create_task(late.ask("a", 8.0))  # its directory still lists the model
        await asyncio.sleep(0.1)
        await late.report()
        await asyncio.sleep(0.5)
        assert await hub.state("a") == "ready"
        keeps_reporting = asyncio.create_task(late.run())
        await asyncio.gather(request, waiting)
        keeps_reporting.cancel()
        assert await hub.ready() == {"b"}


async def test_client_that_died_does_not_hold_a_model_for_ever() -> None:
    async with running_hub(A, B) as hub:
        dead = Ingress(hub.lifecycle, hub.host, "dead")
        await hub.clients[0].ask("a")
        dead.in_flight["a"] = 3
        await dead.report()
        await settle(40)
        await hub.clients[0].ask("b")
        assert await hub.ready() == {"b"}


async def test_model_that_can_never_fit_is_refused_at_once_with_numbers() -> None:
    async with running_hub(spec("huge", 9), fixed={"embeddings": 2.0}) as hub:
        began_s = now_s()
        with pytest.raises(
            ModelUnavailableError, match=r"needs 9\.0 GiB on cpu, which has 8\.0 GiB for models after embeddings 2\.0 GiB"
        ) as e:
            await hub.clients[0].ask("huge")
        assert now_s() == began_s
        assert e.value.code == "model_too_large"
        assert hub.host.starts == []


async def test_unknown_model_is_not_found() -> None:
    async with running_hub(A) as hub:
        with pytest.raises(NotFoundError, match="Installed: a"):
            await hub.lifecycle.ensure("không-có")


async def test_model_installed_later_is_found() -> None:
    async with running_hub(A) as hub:
        await settle(2)
        hub.specs["b"] = B
        await hub.clients[0].ask("b")
        assert await hub.ready() == {"b"}


async def test_full_queue_refuses_at_once_with_retry_after() -> None:
    async with running_hub(A, policy=replace(POLICY, max_waiting_requests=3)) as hub:
        waiting = [asyncio.create_task(hub.clients[0].ask("a")) for _ in range(3)]
        await asyncio.sleep(0.1)
        with pytest.raises(OverloadedError) as caught:
            await hub.clients[0].ask("a")
        assert caught.value.retry_after_s
        await asyncio.gather(*waiting)


async def test_request_that_waits_too_long_gets_503_and_the_load_goes_on() -> None:
    async with running_hub(A, policy=replace(POLICY, wait_timeout_s=4.0)) as hub:
        with pytest.raises(ModelUnavailableError, match="still being loaded, for 4 s so far") as caught:
            await hub.clients[0].ask("a")
        assert caught.value.retry_after_s
        await settle(10)
        assert await hub.ready() == {"a"}


async def test_client_that_leaves_frees_its_place_in_the_queue() -> None:
    async with running_hub(A, policy=replace(POLICY, max_waiting_requests=1)) as hub:
        gone = asyncio.create_task(hub.clients[0].ask("a"))
        await asyncio.sleep(0.1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await hub.clients[0].ask("a")


async def test_idle_model_is_unloaded_and_a_used_one_is_not() -> None:
    async with running_hub(A, SMALL, policy=replace(POLICY, unload_timeout_s=30.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("small")
        for _ in range(10):
            await hub.clients[0].ask("small", 5.0)
        assert await hub.ready() == {"small"}
        assert hub.ledger.held_bytes("a") == 0


async def test_request_during_an_idle_unload_keeps_the_model() -> None:
    async with running_hub(A, policy=replace(POLICY, unload_timeout_s=30.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.until("a", "draining")
        await hub.lifecycle.ensure("a")
        assert hub.host.starts == ["a"]
        assert await hub.state("a") == "ready"


async def test_pinned_model_is_neither_evicted_nor_unloaded() -> None:
    async with running_hub(A, B, policy=replace(POLICY, unload_timeout_s=30.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.pin("a")
        await settle(100)
        with pytest.raises(ModelUnavailableError, match="pinned"):
            await hub.clients[0].ask("b")
        with pytest.raises(ConflictError, match="pinned"):
            await hub.lifecycle.unload("a")
        await hub.lifecycle.unpin("a")
        await hub.clients[0].ask("b")
        assert await hub.ready() == {"b"}


async def test_no_more_models_than_allowed_whatever_their_size() -> None:
    one, two, three = (spec(name, 1) for name in ("one", "two", "three"))
    async with running_hub(one, two, three, policy=replace(POLICY, max_concurrent_models=2)) as hub:
        for name in ("one", "two", "three"):
            await hub.clients[0].ask(name)
        assert await hub.ready() == {"two", "three"}


async def test_model_limit_holds_across_devices() -> None:
    on_gpu = spec("gpu", 1, device="cuda:0")
    async with running_hub(SMALL, on_gpu, policy=replace(POLICY, max_concurrent_models=1)) as hub:
        await asyncio.gather(hub.clients[0].ask("small"), hub.clients[0].ask("gpu"))
        assert len(await hub.ready()) == 1


async def test_failed_start_is_told_with_its_reason_and_retried_after_a_pause() -> None:
    async with running_hub(A) as hub:
        hub.host.failures["a"] = [ValueError("tokenizer is missing")]
        with pytest.raises(ModelUnavailableError, match="tokenizer is missing") as caught:
            await hub.clients[0].ask("a")
        assert caught.value.retry_after_s
        assert await hub.state("a") == "failed"
        assert hub.ledger.held_bytes("a") == 0
        with pytest.raises(ModelUnavailableError, match="tokenizer is missing"):
            await hub.clients[0].ask("a")
        assert hub.host.starts == ["a"]
        await settle(11)
        await hub.clients[0].ask("a")
        assert await hub.state("a") == "ready"


async def test_each_further_failure_doubles_the_pause() -> None:
    async with running_hub(A) as hub:
        hub.host.failures["a"] = [ValueError("no")] * 3
        pauses = []
        for _ in range(3):
            with pytest.raises(ModelUnavailableError):
                await hub.lifecycle.load("a")
            pauses.append((await hub.model("a")).retry_in_s)
        assert pauses == [10.0, 20.0, 40.0]


async def test_start_that_hangs_ends_as_a_failure_and_gives_its_memory_back() -> None:
    async with running_hub(A, policy=replace(POLICY, start_timeout_s=20.0)) as hub:
        hub.host.start_s = 1e6
        with pytest.raises(ModelUnavailableError, match="did not start within 20 s"):
            await hub.clients[0].ask("a")
        assert hub.ledger.held_bytes("a") == 0
        assert await hub.host.used_bytes("a") is None


async def test_memory_of_a_model_that_cannot_be_stopped_stays_charged_until_it_is_gone() -> None:
    async with running_hub(A, B) as hub:
        await hub.clients[0].ask("a")
        hub.host.stop_failures["a"] = [OSError("no answer")]
        with pytest.raises(ModelUnavailableError, match="no answer"):
            await hub.lifecycle.unload("a")
        assert hub.ledger.held_bytes("a") == 6 * GIB
        hub.host.lose("a")
        await settle(6)
        assert hub.ledger.held_bytes("a") == 0
        await hub.clients[0].ask("b")


async def test_unload_ends_only_when_the_memory_is_back() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        hub.host.give_back_s = 12.0
        began_s = now_s()
        await hub.lifecycle.unload("a")
        assert now_s() - began_s >= 12
        assert await hub.host.used_bytes("a") is None
        assert await hub.state("a") == "unloaded"


async def test_memory_taken_by_somebody_else_counts() -> None:
    async with running_hub(A, budget_gib=10, total_gib=10, policy=replace(POLICY, room_timeout_s=5.0)) as hub:
        hub.host.foreign_bytes["cpu"] = 5 * GIB
        with pytest.raises(ModelUnavailableError, match=r"5\.0 GiB of 10\.0 GiB are free"):
            await hub.clients[0].ask("a")
        hub.host.foreign_bytes["cpu"] = 0
        await hub.clients[0].ask("a")


async def test_unload_waits_for_requests_in_flight() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        request = asyncio.create_task(hub.clients[0].ask("a", 10.0))
        await asyncio.sleep(0.1)
        await hub.lifecycle.unload("a")
        assert request.done()
        assert await hub.ready() == set()


async def test_unload_of_a_model_that_stays_busy_is_a_conflict() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        request = asyncio.create_task(hub.clients[0].ask("a", 100.0))
        await asyncio.sleep(0.1)
        with pytest.raises(ConflictError, match="still answers 1 requests"):
            await hub.lifecycle.unload("a")
        assert await hub.ready() == {"a"}
        await request


async def test_unload_takes_a_queued_load_back() -> None:
    async with running_hub(A, B) as hub:
        await hub.clients[0].ask("a")
        queued = asyncio.create_task(hub.lifecycle.load("b"))
        await asyncio.sleep(1)
        assert await hub.state("b") == "queued"
        await hub.lifecycle.unload("b")
        with pytest.raises(ModelUnavailableError, match="unloaded on request"):
            await queued


async def test_unload_of_another_model_lets_a_waiting_load_through() -> None:
    async with running_hub(A, B, policy=replace(POLICY, min_residency_s=1000.0)) as hub:
        await hub.lifecycle.load("a")
        waiting = asyncio.create_task(hub.lifecycle.load("b"))
        await asyncio.sleep(5)
        await hub.lifecycle.unload("a")
        assert (await waiting).state == "ready"


async def test_unload_of_an_unloaded_model_changes_nothing() -> None:
    async with running_hub(A) as hub:
        assert (await hub.lifecycle.unload("a")).state == "unloaded"


async def test_force_reload_starts_the_newly_installed_version() -> None:
    async with running_hub(A) as hub:
        await hub.lifecycle.load("a")
        assert (await hub.lifecycle.load("a")).state == "ready"
        assert hub.host.starts == ["a"]
        hub.specs["a"] = replace(A, digest="new")
        await hub.lifecycle.refresh()
        status = await hub.lifecycle.load("a", force_reload=True)
        assert hub.host.starts == ["a", "a"]
        assert status.digest == hub.host.specs["a"].digest == "new"


async def test_lost_model_is_noticed_and_loaded_again_on_request() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        hub.host.lose("a")
        await settle(6)
        assert await hub.state("a") == "failed"
        await settle(15)
        await hub.clients[0].ask("a")
        assert hub.host.starts == ["a", "a"]


async def test_steady_traffic_on_one_model_does_not_starve_another() -> None:
    async with running_hub(A, B) as hub:

        async def keep_asking() -> None:
            while True:
                await hub.clients[0].ask("a", 3.0)

        tasks = [asyncio.create_task(keep_asking()) for _ in range(4)]
        await asyncio.sleep(60)
        await hub.clients[0].ask("b")
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(isinstance(result, HubError) for result in results)


async def test_status_tells_who_holds_what() -> None:
    async with running_hub(A, B, fixed={"embeddings": 1.0}) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.pin("a")
        status = await hub.lifecycle.status()
        (device,) = status.devices
        assert {held.holder: held.size_bytes // GIB for held in device.holders} == {"a": 6, "embeddings": 1}
        assert (device.budget_bytes, device.reserved_bytes, device.free_bytes) == (10 * GIB, 7 * GIB, 58 * GIB)
        model = next(one for one in status.models if one.model_id == "a")
        assert (model.state, model.is_pinned, model.load_time_s) == ("ready", True, 10.0)
        assert model.last_used_at is not None


async def test_measured_growth_is_charged() -> None:
    async with running_hub(A, B) as hub:
        await hub.clients[0].ask("a")
        hub.host._used["a"] = ("cpu", 8 * GIB)
        await settle(6)
        assert hub.ledger.held_bytes("a") == 8 * GIB
        assert (await hub.model("a")).used_bytes == 8 * GIB


async def test_a_cache_that_fills_later_is_part_of_what_the_next_load_is_admitted_for() -> None:
    async with running_hub(A, B) as hub:
        await hub.clients[0].ask("a")
        hub.host._used["a"] = ("cpu", 5 * GIB)
        hub.host.unfilled["a"] = 2 * GIB
        await settle(6)
        # The ledger keeps free what the model has not taken; its peak is what it will have taken in the end.
        assert (await hub.model("a")).used_bytes == 5 * GIB
        assert hub.ledger.held_bytes("a") == 6 * GIB
        await hub.lifecycle.unload("a")
        await hub.lifecycle.refresh()
        assert (await hub.model("a")).need_bytes == 7 * GIB


async def test_policy_can_change_at_run_time() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await settle(100)
        assert await hub.ready() == {"a"}
        hub.lifecycle.set_policy(replace(POLICY, unload_timeout_s=20.0))
        await settle(10)
        assert await hub.ready() == set()
