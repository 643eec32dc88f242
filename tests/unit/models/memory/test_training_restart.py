"""A restart of the hub while a training runs or models make room for one."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.kept_state import Desired, DesiredState
from tests.unit.models.memory.lifecycle_parts import GIB, POLICY, running_hub, spec
from tests.unit.models.memory.training_parts import FakeTraining

A, B = spec("a", 6), spec("b", 3)
HOLDER = "training ftjob-1"
QUIET_S = 70.0
HELD = Desired(displaced=("a",), trainings=((HOLDER, 6 * GIB),))


def training_on(host: FakeHost, size_gib: int = 6) -> FakeHost:
    """The training runs on, whatever becomes of the hub."""
    host.take_foreign("cpu", size_gib * GIB)
    return host


async def test_model_stays_away_from_a_start_until_the_training_that_runs_on_has_ended() -> None:
    host = training_on(FakeHost({"cpu": 10 * GIB}))
    async with running_hub(A, B, host=host, desired=replace(HELD, loaded=("b",)), default_models={"a"}) as hub:
        hub.lifecycle.training_room.adopt(HOLDER, 6 * GIB)
        await asyncio.sleep(1000)
        assert await hub.ready() == {"b"}
        host.take_foreign("cpu", -6 * GIB)
        await hub.lifecycle.training_room.release(HOLDER)
        await asyncio.sleep(30)
        assert await hub.ready() == {"a", "b"}
        assert host.broken_promises == []


async def test_training_has_its_room_before_anybody_adopts_it() -> None:
    host = training_on(FakeHost({"cpu": 64 * GIB}))
    async with running_hub(A, host=host, desired=HELD) as hub:
        assert hub.lifecycle.training_room.holders() == {HOLDER}
        with pytest.raises(ModelUnavailableError, match=HOLDER):
            await hub.clients[0].ask("a")
        assert await hub.lifecycle.training_room.take(HOLDER, 6 * GIB, may_drain=False) is None
        await asyncio.sleep(1000)
        assert hub.ledger.held_bytes(HOLDER) == 6 * GIB


async def test_training_that_nobody_knows_after_a_restart_gives_its_room_back() -> None:
    async with running_hub(A, desired=HELD) as hub:
        await asyncio.sleep(60)
        assert hub.host.starts == []
        await asyncio.sleep(120)
        assert await hub.ready() == {"a"}
        assert hub.desired.desired == Desired(loaded=("a",))


async def test_training_that_ended_during_the_restart_is_released_and_the_model_comes_back() -> None:
    async with running_hub(A, desired=HELD) as hub:
        await hub.lifecycle.training_room.release(HOLDER)
        await asyncio.sleep(30)
        assert await hub.ready() == {"a"}


async def test_running_training_is_adopted_also_beyond_the_budget_and_no_model_is_loaded_over_it() -> None:
    host = training_on(FakeHost({"cpu": 12 * GIB}))
    async with running_hub(A, host=host, desired=Desired(loaded=("a",))) as hub:
        hub.lifecycle.training_room.adopt(HOLDER, 6 * GIB)  # a start without its file of state began to load the model
        await asyncio.sleep(100)
        assert host.broken_promises == []
        assert hub.ledger.held_bytes(HOLDER) == 6 * GIB


async def test_displaced_model_is_loaded_by_a_start_when_no_training_has_room() -> None:
    async with running_hub(A, B, desired=Desired(loaded=("b",), displaced=("a",))) as hub:
        await asyncio.sleep(30)
        assert hub.host.starts == ["b", "a"]


async def test_model_that_sleeps_for_a_training_is_woken_after_a_restart_and_the_trainings_end() -> None:
    on_gpu = replace(A, device="cuda:0")
    host = FakeHost({"cuda:0": 10 * GIB, "cpu": 64 * GIB})
    budgets = {"cuda:0": 10.0, "cpu": 32.0}
    async with running_hub(on_gpu, host=host, budgets=budgets) as before:
        await before.clients[0].ask("a")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(before, HOLDER, 8, device="cuda:0")
        await training.start()
    async with running_hub(on_gpu, host=host, budgets=budgets, desired=before.desired.desired) as after:
        training.hub = after
        assert await training.ask() is None
        await asyncio.sleep(100)
        assert await after.state("a") == "sleeping"
        await training.end()
        await asyncio.sleep(30)
        assert (await after.ready(), host.starts, host.wakes) == ({"a"}, ["a"], ["a"])


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.9, 1.1, 1.5, 2.1, 2.6, 3.2, 4.1, 6.0, 9.5])
async def test_hub_killed_at_any_moment_of_a_training_has_its_models_back_in_the_end(after_s: float) -> None:
    host = FakeHost({"cpu": 64 * GIB})
    small = spec("small", 2)
    async with running_hub(A, B, small, host=host, budget_gib=11) as before:
        for model_id in ("a", "b", "small"):
            await before.clients[0].ask(model_id)
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(before, HOLDER, 8.5)
        asking = asyncio.create_task(training.start())
        await asyncio.sleep(after_s)
        asking.cancel()
        desired = before.desired.desired
    for model_id in ("a", "b", "small"):
        host.lose(model_id)  # replicas die with the hub
    host.lost.clear()
    async with running_hub(A, B, small, host=host, budget_gib=11, desired=desired) as after:
        training.hub = after
        await training.end()  # the scheduler found it dead
        await asyncio.sleep(200)
        assert await after.ready() == {"a", "b", "small"}
        assert host.broken_promises == []


@pytest.mark.parametrize("run_s", [0.0, 0.7, 3.0, 17.0, 61.0, 400.0])
async def test_training_killed_at_any_moment_leaves_the_models_as_they_were(run_s: float) -> None:
    async with running_hub(A, B, policy=replace(POLICY, min_residency_s=0.0)) as hub:
        await hub.clients[0].ask("a")
        await hub.clients[0].ask("b")
        await asyncio.sleep(QUIET_S)
        training = FakeTraining(hub, HOLDER, 9)
        asking = asyncio.create_task(training.start())
        await asyncio.sleep(run_s)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await training.end(gives_back_s=2.0)
        await asyncio.sleep(100)
        assert await hub.ready() == {"a", "b"}
        assert hub.lifecycle.training_room.holders() == set()


async def test_displaced_models_and_trainings_outlive_the_process_on_disk(tmp_path: Path) -> None:
    desired = Desired(loaded=("b",), pinned=(), displaced=("a", "mô-hình"), trainings=((HOLDER, 6 * GIB),))
    await DesiredState(tmp_path / "models.json").write(desired)
    assert await DesiredState(tmp_path / "models.json").read() == desired


async def test_file_of_an_earlier_version_knows_no_trainings(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text('{"loaded": ["a"], "pinned": []}', encoding="utf-8")
    assert await DesiredState(path).read() == Desired(loaded=("a",))


@pytest.mark.parametrize("trainings", ["[]", '{"t": 0}', '{"t": "1"}', '{"t": true}', "null"])
async def test_damaged_trainings_are_kept_aside(tmp_path: Path, trainings: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(f'{{"loaded": [], "pinned": [], "displaced": [], "trainings": {trainings}}}', encoding="utf-8")
    assert await DesiredState(path).read() == Desired()
    assert path.with_suffix(".damaged").exists()
