"""A training takes memory from idle models, and they come back when it has ended."""

import asyncio
from dataclasses import replace

import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.kept_state import Desired
from aihub.models.memory.room import TrainingTooLargeError
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, Ingress, running_hub, spec
from tests.unit.models.memory.training_parts import FakeTraining
from tests.unit.models.memory.virtual_time import now_s

A, B, SMALL = spec("a", 6), spec("b", 3), spec("small", 2)
QUIET_S = 70.0
"""After so long nobody has used a model for a while."""


async def test_training_that_fits_has_its_room_at_once_and_shows_as_a_holder() -> None:
    async with running_hub(A) as hub:
        assert await FakeTraining(hub, "training ftjob-1", 4).ask() is None
        [device] = (await hub.lifecycle.status()).devices
        assert [(held.holder, held.size_bytes) for held in device.holders] == [("training ftjob-1", 4 * GIB)]
        assert device.reserved_bytes == 4 * GIB
        assert hub.lifecycle.training_room.holders() == {"training ftjob-1"}


async def test_asking_again_changes_nothing_for_a_holder_and_its_end_frees_the_memory() -> None:
    async with running_hub(A) as hub:
        training = FakeTraining(hub, "training ftjob-1", 4)
        await training.start()
        assert await training.ask() is None
        assert hub.ledger.held_bytes(training.name) == 4 * GIB
        await training.end()
        await training.end()
        assert hub.ledger.holders("cpu") == []


async def test_idle_model_makes_room_and_is_loaded_again_after_the_training() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 6)
        await training.start()
        assert await hub.ready() == set()
        await asyncio.sleep(5000)
        assert hub.host.starts == ["a"]
        await training.end()
        await asyncio.sleep(30)
        assert await hub.ready() == {"a"}


async def test_model_on_a_gpu_sleeps_for_a_training_and_is_woken_afterwards_however_long_that_takes() -> None:
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB})
    on_gpu = replace(A, device="cuda:0")
    budgets = {"cpu": 32.0, "cuda:0": 10.0}
    async with running_hub(on_gpu, host=host, budgets=budgets, policy=replace(POLICY, sleep_timeout_s=600.0)) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 8, device="cuda:0")
        await training.start()
        assert (await hub.state("a"), hub.ledger.held_bytes(training.name, "cuda:0")) == ("sleeping", 8 * GIB)
        await asyncio.sleep(10_000)
        await training.end()
        await asyncio.sleep(30)
        assert await hub.ready() == {"a"}
        assert (host.starts, host.wakes) == (["a"], ["a"])


async def test_model_whose_sleep_would_not_free_enough_is_unloaded_and_loaded_again() -> None:
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB})
    async with running_hub(replace(A, device="cuda:0"), host=host, budgets={"cpu": 32.0, "cuda:0": 10.0}) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 9.8, device="cuda:0")
        await training.start()
        assert (await hub.state("a"), host.sleeps) == ("unloaded", [])
        await training.end()
        await asyncio.sleep(30)
        assert (await hub.ready(), host.starts) == ({"a"}, ["a", "a"])


async def test_all_models_that_made_room_come_back_and_no_more_than_needed_do() -> None:
    async with running_hub(B, SMALL, spec("c", 4)) as hub:
        for model_id in ("b", "small", "c"):
            await hub.clients[0].ask(model_id)
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 5.5)
        await training.start()
        assert await hub.ready() == {"c"}
        await training.end()
        await asyncio.sleep(60)
        assert await hub.ready() == {"b", "small", "c"}


async def test_models_displaced_one_after_the_other_all_come_back() -> None:
    async with running_hub(A, B) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("b")
        await asyncio.sleep(QUIET_S)
        one, two = FakeTraining(hub, "training ftjob-1", 3), FakeTraining(hub, "training ftjob-2", 7)
        await one.start()
        await two.start()
        assert await hub.ready() == set()
        await one.end()
        await asyncio.sleep(300)
        assert await hub.ready() == {"b"}  # there is room for it beside the second training
        await two.end()
        await asyncio.sleep(60)
        assert await hub.ready() == {"a", "b"}


async def test_model_in_use_keeps_its_room_and_the_training_is_told_the_numbers() -> None:
    async with running_hub(A) as hub:
        asking = asyncio.create_task(hub.clients[0].ask("a", 500.0))
        await asyncio.sleep(200)
        training = FakeTraining(hub, "training ftjob-1", 6)
        assert await training.ask() == (
            "The training needs 6.0 GiB on cpu; 4.0 GiB of its budget are free, the rest is held by a 6.0 GiB. It waits until "
            "other trainings end or models have not been used for 60 s."
        )
        assert await hub.ready() == {"a"}
        await asking
        await training.start()
        assert training.started_s is not None
        assert training.started_s > 510 + 60


async def test_model_used_a_moment_ago_keeps_its_room() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(40)
        assert await FakeTraining(hub, "training ftjob-1", 6).ask() is not None
        assert await hub.ready() == {"a"}


async def test_nobody_makes_room_when_that_would_not_be_enough() -> None:
    async with running_hub(B, spec("c", 5)) as hub:
        asking = asyncio.create_task(hub.clients[0].ask("c", 300.0))
        await hub.clients[0].ask("b")
        await asyncio.sleep(100)
        assert await FakeTraining(hub, "training ftjob-1", 6).ask() is not None
        assert await hub.ready() == {"b", "c"}
        await asking


async def test_busy_model_is_drained_where_trainings_come_first() -> None:
    async with running_hub(A) as hub:
        asking = asyncio.create_task(hub.clients[0].ask("a", 60.0))
        await asyncio.sleep(50)
        training = FakeTraining(hub, "training ftjob-1", 6, may_drain=True)
        reason = await training.ask()
        assert reason is not None
        assert "'a' answers requests" in reason
        assert await hub.ready() == {"a"}
        await training.start()
        await asking  # to its end, and no request was lost
        assert (await hub.ready(), hub.host.broken_promises) == (set(), [])


async def test_idle_and_busy_models_stay_together_where_the_busy_one_does_not_become_idle() -> None:
    async with running_hub(B, spec("c", 5)) as hub:
        asking = asyncio.create_task(hub.clients[0].ask("c", 1000.0))
        await hub.clients[0].ask("b")
        await asyncio.sleep(100)
        training = FakeTraining(hub, "training ftjob-1", 8, may_drain=True)
        with pytest.raises(TimeoutError):
            await training.start(timeout_s=100.0)
        await training.end()
        await asyncio.sleep(60)
        assert (await hub.ready(), sorted(hub.host.starts)) == ({"b", "c"}, ["b", "c"])
        asking.cancel()


async def test_pinned_model_stays_and_a_training_that_fits_only_without_it_is_refused_with_the_numbers() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await hub.lifecycle.pin("a")
        await asyncio.sleep(QUIET_S)
        room = hub.lifecycle.training_room
        room.refuse_impossible(4 * GIB)
        with pytest.raises(TrainingTooLargeError, match=r"needs 5.0 GiB on cpu; pinned models \(a\) leave 4.0 GiB"):
            room.refuse_impossible(5 * GIB)
        # One that was accepted before the pin waits and says why.
        assert "Unpin one of them" in str(await FakeTraining(hub, "training ftjob-1", 5, may_drain=True).ask())
        assert await hub.ready() == {"a"}


async def test_training_larger_than_the_device_is_refused_as_a_bad_request_that_names_what_would_help() -> None:
    async with running_hub(A, fixed={"embeddings": 2}) as hub:
        with pytest.raises(TrainingTooLargeError, match=r"8.0 GiB for models and trainings after embeddings 2.0 GiB.*qlora") as e:
            hub.lifecycle.training_room.refuse_impossible(9 * GIB)
        assert (e.value.status, e.value.code, e.value.retryable) == (400, "training_too_large", False)


async def test_request_for_a_model_that_only_the_trainings_end_makes_room_for_is_told_so_at_once() -> None:
    async with running_hub(A, SMALL) as hub:
        await FakeTraining(hub, "training ftjob-1", 7).start()
        began_s = now_s()
        with pytest.raises(ModelUnavailableError, match="training ftjob-1 holds 7.0 GiB until it ends") as refused:
            await hub.clients[0].ask("a")
        assert now_s() - began_s < 1.0
        assert (refused.value.code, refused.value.retry_after_s) == ("memory_held_by_training", 60)
        await hub.clients[0].ask("small")  # fits beside it


async def test_request_for_a_model_asleep_is_refused_at_once_while_a_training_has_its_room() -> None:
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB})
    async with running_hub(replace(A, device="cuda:0"), host=host, budgets={"cuda:0": 10.0, "cpu": 32.0}) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 8, device="cuda:0")
        await training.start()
        began_s = now_s()
        with pytest.raises(ModelUnavailableError, match="training ftjob-1"):
            await hub.clients[0].ask("a")
        assert now_s() - began_s < 1.0
        assert (await hub.state("a"), host.wakes) == ("sleeping", [])
        await training.end()
        await hub.clients[0].ask("a")


async def test_load_that_waits_is_refused_as_soon_as_a_training_takes_its_room() -> None:
    async with running_hub(A, spec("c", 8)) as hub:
        busy = asyncio.create_task(hub.clients[0].ask("a", 40.0))
        await asyncio.sleep(15)
        waiting = asyncio.create_task(hub.clients[0].ask("c"))
        await asyncio.sleep(1)
        training = FakeTraining(hub, "training ftjob-1", 4)
        hub.lifecycle.training_room.adopt(training.name, 4 * GIB)
        began_s = now_s()
        with pytest.raises(ModelUnavailableError, match="training ftjob-1"):
            await waiting
        assert now_s() - began_s < 1.0
        await busy


async def test_trainings_end_lets_a_load_in_that_waits_for_a_busy_model() -> None:
    async with running_hub(A, spec("c", 4)) as hub:
        training = FakeTraining(hub, "training ftjob-1", 4)
        await training.start()
        busy = asyncio.create_task(hub.clients[0].ask("a", 300.0))
        await asyncio.sleep(100)
        waiting = asyncio.create_task(hub.clients[0].ask("c"))
        await asyncio.sleep(2)
        assert await hub.state("c") == "queued"
        await training.end()
        await asyncio.sleep(15)
        assert await hub.ready() == {"a", "c"}
        await asyncio.gather(busy, waiting)


async def test_model_that_is_asked_for_is_loaded_before_a_training_takes_the_room() -> None:
    async with running_hub(A, B, host=FakeHost({"cpu": 64 * GIB}, start_s=10.0)) as hub:
        loading = asyncio.create_task(hub.clients[0].ask("b"))
        await asyncio.sleep(1)
        asked = asyncio.create_task(hub.clients[0].ask("a"))
        await asyncio.sleep(1)
        training = FakeTraining(hub, "training ftjob-1", 7)
        starting = asyncio.create_task(training.start())
        await asyncio.gather(loading, asked)
        assert training.started_s is None
        await starting
        assert hub.host.broken_promises == []


async def test_request_that_comes_while_its_idle_model_makes_room_keeps_it() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        hub.clients.append(Ingress(hub.lifecycle, hub.host, "slow"))
        await hub.clients[1].report()  # and does not see the directory without the model for a while
        asking = asyncio.create_task(FakeTraining(hub, "training ftjob-1", 6).ask())
        await hub.until("a", "draining")
        await hub.lifecycle.ensure("a")
        assert "is in use" in str(await asking)
        assert (await hub.ready(), hub.host.starts) == ({"a"}, ["a"])


async def test_second_training_waits_for_the_first_and_gets_its_room() -> None:
    async with running_hub(A) as hub:
        one, two = FakeTraining(hub, "training ftjob-1", 6), FakeTraining(hub, "training ftjob-2", 6)
        await one.start()
        assert "held by training ftjob-1 6.0 GiB" in str(await two.ask())
        waiting = asyncio.create_task(two.start())
        await asyncio.sleep(100)
        assert two.started_s is None
        await one.end()
        await waiting
        assert hub.lifecycle.training_room.holders() == {"training ftjob-2"}


async def test_two_trainings_at_the_same_moment_do_not_both_take_the_room() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        trainings = [FakeTraining(hub, f"training ftjob-{number}", 6) for number in range(3)]
        asked = [asyncio.create_task(training.start(timeout_s=60.0)) for training in trainings]
        await asyncio.gather(*asked, return_exceptions=True)
        assert len(hub.lifecycle.training_room.holders()) == 1
        assert hub.ledger.free_bytes("cpu") == 4 * GIB


async def test_model_that_was_unloaded_by_hand_during_the_training_stays_away() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 6)
        await training.start()
        await hub.lifecycle.unload("a")
        await training.end()
        await asyncio.sleep(1000)
        assert hub.host.starts == ["a"]


async def test_model_whose_room_was_taken_by_another_meanwhile_gives_up_and_is_loaded_by_its_next_request() -> None:
    async with running_hub(A, spec("c", 5)) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 5)
        await training.start()
        await hub.clients[0].ask("c")
        await training.end()
        await asyncio.sleep(1000)
        assert await hub.ready() == {"c"}
        await hub.lifecycle.unload("c")
        await asyncio.sleep(1000)
        assert await hub.ready() == set()
        await hub.clients[0].ask("a")


async def test_model_comes_back_when_the_memory_of_a_killed_training_returns_late() -> None:
    async with running_hub(A, total_gib=10) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 6)
        await training.start()
        await training.end(gives_back_s=40.0)
        await asyncio.sleep(35)
        assert hub.host.starts == ["a"]
        await asyncio.sleep(30)
        assert (await hub.ready(), hub.host.broken_promises) == ({"a"}, [])


async def test_memory_that_somebody_else_holds_keeps_a_training_waiting() -> None:
    async with running_hub(A, total_gib=12) as hub:
        hub.host.foreign_bytes["cpu"] = 9 * GIB
        training = FakeTraining(hub, "training ftjob-1", 5)
        assert "where 3.0 GiB of 12.0 GiB are free" in str(await training.ask())
        hub.host.foreign_bytes["cpu"] = 0
        await training.start()


async def test_what_a_young_training_was_promised_is_not_given_to_a_model_while_it_still_shows_as_free() -> None:
    async with running_hub(A, total_gib=10, budget_gib=16) as hub:
        room = hub.lifecycle.training_room
        assert await room.take("training ftjob-1", 5 * GIB, may_drain=False) is None
        loading = asyncio.create_task(hub.clients[0].ask("a"))
        await asyncio.sleep(60)
        assert hub.host.starts == []
        await room.release("training ftjob-1")
        await loading


async def test_memory_a_training_has_taken_is_not_counted_twice() -> None:
    async with running_hub(spec("a", 4), total_gib=10, budget_gib=10) as hub:
        await FakeTraining(hub, "training ftjob-1", 5).start()
        await asyncio.sleep(200)
        await hub.clients[0].ask("a")


async def test_training_does_not_count_as_a_loaded_model() -> None:
    async with running_hub(A, policy=replace(POLICY, max_concurrent_models=1)) as hub:
        await FakeTraining(hub, "training ftjob-1", 4).start()
        await hub.clients[0].ask("a")


async def test_models_make_room_also_when_the_caller_leaves() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 6)
        asking = asyncio.create_task(training.ask())
        await hub.until("a", "unloading")
        asking.cancel()
        await asyncio.sleep(10)
        assert await training.ask() is None
        assert hub.host.broken_promises == []


@pytest.mark.parametrize("state", ["draining", "unloading"])
async def test_training_that_is_cancelled_while_models_make_room_takes_none_and_they_are_ready_again(state: str) -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 6)
        asking = asyncio.create_task(training.ask())
        await hub.until("a", state)
        await training.end()
        assert await asking is not None
        await asyncio.sleep(60)
        assert (await hub.ready(), hub.ledger.held_bytes(training.name)) == ({"a"}, 0)


async def test_model_that_does_not_stop_keeps_its_memory_and_the_training_waits() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        hub.host.stop_failures["a"] = [ValueError("stuck")]
        training = FakeTraining(hub, "training ftjob-1", 6)
        asking = asyncio.create_task(training.ask())
        await hub.until("a", "failed")
        assert hub.ledger.held_bytes("a") == 6 * GIB
        assert await asking is not None
        await training.end()
        await asyncio.sleep(60)
        assert await hub.ready() == {"a"}


async def test_failed_return_is_tried_again() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 6)
        await training.start()
        hub.host.failures["a"] = [ValueError("no memory yet")]
        await training.end()
        await asyncio.sleep(90)
        assert await hub.ready() == {"a"}


async def test_displaced_model_and_the_training_are_written_down() -> None:
    async with running_hub(A) as hub:
        await hub.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, "training ftjob-1", 6)
        await training.start()
        assert hub.desired.desired == Desired(displaced=("a",), trainings=(("training ftjob-1", 6 * GIB),))
        await training.end()
        await asyncio.sleep(30)
        assert hub.desired.desired == Desired(loaded=("a",))
