"""What was loaded and pinned comes back."""

import asyncio
from pathlib import Path

import pytest

from aihub.core.errors import ModelUnavailableError
from aihub.models.memory.fake import FakeHost
from aihub.models.memory.kept_state import Desired, DesiredState
from tests.unit.models.memory.lifecycle_parts import GIB, Ingress, running_hub, spec
from tests.unit.models.memory.virtual_time import now_s

A, B, C = spec("a", 4), spec("b", 4), spec("c", 4)


async def test_loaded_and_pinned_models_come_back_pinned_first() -> None:
    async with running_hub(A, B, C) as before:
        await before.clients[0].ask("a")
        await before.clients[0].ask("b")
        await before.lifecycle.pin("b")
        await before.clients[0].report()
    assert before.desired.desired == Desired(loaded=("a", "b"), pinned=("b",))
    async with running_hub(A, B, C, desired=before.desired.desired) as after:
        await asyncio.sleep(30)
        assert after.host.starts == ["b", "a"]
        assert await after.ready() == {"a", "b"}
        assert (await after.model("b")).is_pinned


async def test_models_still_running_are_adopted_and_not_started_again() -> None:
    host = FakeHost({"cpu": 64 * GIB})
    async with running_hub(A, B, host=host) as before:
        await before.clients[0].ask("a")
    async with running_hub(A, B, host=host, desired=before.desired.desired) as after:
        assert await after.ready() == {"a"}
        assert after.ledger.held_bytes("a") == 4 * GIB
        await after.clients[0].ask("a")
        assert host.starts == ["a"]


async def test_adopted_model_is_not_evicted_before_its_users_could_report() -> None:
    host = FakeHost({"cpu": 64 * GIB})
    async with running_hub(spec("a", 6), spec("b", 6), host=host) as before:
        await before.clients[0].ask("a")
        user = Ingress(before.lifecycle, host, "user")
        await user.report()
    async with running_hub(spec("a", 6), spec("b", 6), host=host) as after:
        user.lifecycle = after.lifecycle
        waiting = asyncio.create_task(after.clients[0].ask("b"))
        await asyncio.sleep(2)
        host.begin_request("a")
        user.in_flight["a"] += 1
        await asyncio.sleep(1)
        await user.report()
        await asyncio.sleep(1)
        assert await after.state("a") == "ready"
        host.end_request("a")
        user.in_flight["a"] -= 1
        await waiting


async def test_running_model_that_is_no_longer_installed_is_stopped() -> None:
    host = FakeHost({"cpu": 64 * GIB})
    async with running_hub(A, host=host) as before:
        await before.clients[0].ask("a")
    async with running_hub(B, host=host):
        assert await host.running() == set()


async def test_models_that_no_longer_fit_together_do_not_push_each_other_out() -> None:
    async with running_hub(A, B, budget_gib=6, desired=Desired(loaded=("a", "b"))) as hub:
        await asyncio.sleep(120)
        assert hub.host.starts == ["a"]
        assert hub.desired.desired.loaded == ("a",)


async def test_request_for_a_model_that_is_being_brought_back_waits_for_it() -> None:
    async with running_hub(A, desired=Desired(loaded=("a",))) as hub:
        await hub.clients[0].ask("a")
        assert now_s() >= 10
        assert hub.host.starts == ["a"]


async def test_failed_restore_leaves_the_hub_working_and_the_pin_in_place() -> None:
    host = FakeHost({"cpu": 64 * GIB})
    host.failures["a"] = [ValueError("weights are gone")]
    async with running_hub(A, B, host=host, desired=Desired(loaded=("a", "gone"), pinned=("a",))) as hub:
        await asyncio.sleep(15)
        with pytest.raises(ModelUnavailableError, match="weights are gone"):
            await hub.clients[0].ask("a")
        await hub.clients[0].ask("b")
        assert hub.desired.desired == Desired(loaded=("b",), pinned=("a",))


async def test_state_file_round_trips_with_vietnamese_names(tmp_path: Path) -> None:
    desired = Desired(loaded=("mô-hình", "b"), pinned=("b",))
    await DesiredState(tmp_path / "deep" / "models.json").write(desired)
    assert await DesiredState(tmp_path / "deep" / "models.json").read() == desired


async def test_missing_state_file_is_empty(tmp_path: Path) -> None:
    assert await DesiredState(tmp_path / "none.json").read() == Desired()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"loaded": 1, "pinned": []}', '{"loaded": [1], "pinned": []}', "\x00", "null"]
)
async def test_damaged_state_file_is_kept_aside_and_counts_as_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "models.json"
    path.write_text(content, encoding="utf-8")
    assert await DesiredState(path).read() == Desired()
    assert path.with_suffix(".damaged").read_text(encoding="utf-8") == content
    await DesiredState(path).write(Desired(("a",)))
    assert await DesiredState(path).read() == Desired(("a",))


async def test_without_a_state_file_the_first_models_are_wanted_and_afterwards_what_was_written(tmp_path: Path) -> None:
    state = DesiredState(tmp_path / "models.json", first=("smollm2",))
    assert await state.read() == Desired(loaded=("smollm2",))
    await state.write(Desired())
    assert await state.read() == Desired()


async def test_damaged_state_file_does_not_bring_the_first_models_back(tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text("{", encoding="utf-8")
    assert await DesiredState(path, first=("smollm2",)).read() == Desired()
