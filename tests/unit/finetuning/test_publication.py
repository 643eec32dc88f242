"""From a trained adapter to a published one, with everything that can go wrong on the way."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import (
    ConflictError,
    EngineTimeoutError,
    HubError,
    InternalError,
    InvalidRequestError,
    ModelUnavailableError,
)
from aihub.core.postgres import Database
from aihub.finetuning.adapter_folder import Adapter, AdapterUnusableError
from aihub.finetuning.checks import MOST_SURPRISES, STOP_PATIENCE_S
from aihub.finetuning.scheduler import CHECKED_FIRST_S
from tests.unit.finetuning.adapter_parts import build_candidate, manifest
from tests.unit.finetuning.job_parts import BASE, JobRows, losses
from tests.unit.finetuning.scheduler_parts import Scene

RIGHT = "Đáp {0[4]}"
"""What the questions of the scene want to hear: `Đáp 1` to `Câu 1`."""


@pytest.fixture
def scene(rows: JobRows, database: Database, tmp_path: Path) -> Scene:
    return Scene(rows, database, tmp_path)


async def test_trained_adapter_is_asked_and_published_with_its_scores(scene: Scene) -> None:
    scene.engine.says = {"candidate": RIGHT}
    job_id = await scene.trained()
    row = await scene.finished(job_id)
    assert (row["status"], row["adapter_id"], row["wish"]) == ("succeeded", f"{BASE}:shop@v1", None)
    adapter = scene.store.get(f"{BASE}:shop@v1")
    assert (adapter.manifest.job_id, adapter.manifest.base_digest, adapter.manifest.rank) == (job_id, "digest-1", 16)
    report = adapter.manifest.evaluation
    assert (report.asked_rows, report.base.exact, report.candidate.exact) == (4, 0.0, 1.0)
    assert (report.base.loss, report.candidate.loss, report.current) == (2.0, 1.0, None)
    assert row["evaluation"]["candidate"] == {"loss": 1.0, "exact": 1.0}
    assert scene.seen_adapters == [f"{BASE}:shop@v1"]
    assert scene.engine.loaded == set()
    assert scene.engine.calls == [f"ensure {BASE}", "load", "remove"]
    await scene.look()
    assert not scene.folder(job_id).candidate.exists()
    assert scene.rows.messages(job_id)[-1] == f"The adapter is published as {BASE}:shop@v1."


async def test_room_is_given_back_before_the_base_is_loaded(scene: Scene) -> None:
    scene.engine.error = ModelUnavailableError("It is loading.")
    await scene.trained()
    await scene.look()
    assert scene.room.held == {}


async def test_adapter_in_use_is_asked_the_same_questions(scene: Scene) -> None:
    scene.store.publish(build_candidate(scene.home / "old"), manifest(base=BASE, tenant=scene.rows.tenant))
    scene.store.promote(f"{BASE}:shop@v1", force=True)
    scene.engine.says = {"current": RIGHT, "candidate": "Đáp 1"}
    row = await scene.finished(await scene.trained(losses(current=1.5)))
    assert row["adapter_id"] == f"{BASE}:shop@v2"
    report = scene.store.get(f"{BASE}:shop@v2").manifest.evaluation
    assert report.current is not None
    assert (report.current.exact, report.current.loss, report.candidate.exact) == (1.0, 1.5, 0.25)
    with pytest.raises(ConflictError, match="worse than"):
        scene.store.promote(f"{BASE}:shop@v2")


async def test_adapter_in_use_that_was_deleted_meanwhile_is_left_out(scene: Scene) -> None:
    row = await scene.finished(await scene.trained(losses(current=1.5)))
    assert row["status"] == "succeeded"
    report = scene.store.get(row["adapter_id"]).manifest.evaluation
    assert report.current is not None
    assert (report.current.exact, report.asked_rows) == (None, 4)


async def test_name_of_another_tenant_fails_the_job_with_a_way_out(scene: Scene) -> None:
    scene.store.publish(build_candidate(scene.home / "old"), manifest(base=BASE, tenant="somebody else"))
    row = await scene.finished(await scene.trained())
    assert (row["status"], row["error"]["code"]) == ("failed", "adapter_name_taken")
    assert "another suffix" in row["error"]["message"]
    assert len(scene.store.list()) == 1


async def test_data_without_short_answers_are_published_by_their_losses(scene: Scene) -> None:
    job_id = await scene.trained()
    scene.folder(job_id).questions.unlink()
    row = await scene.finished(job_id)
    assert (row["status"], row["evaluation"]["asked_rows"], row["evaluation"]["candidate"]["exact"]) == ("succeeded", 0, None)


@pytest.mark.parametrize("where", ["load_error", "answer_error"])
async def test_adapter_that_the_engine_does_not_take_fails_the_job_and_is_not_published(scene: Scene, where: str) -> None:
    error = AdapterUnusableError("rank 512 is more than 64") if where == "load_error" else InvalidRequestError("shapes differ")
    setattr(scene.engine, where, error)
    job_id = await scene.trained()
    row = await scene.finished(job_id)
    assert (row["status"], row["error"]["code"], row["adapter_id"]) == ("failed", "adapter_unusable", None)
    assert error.message in row["error"]["message"]
    assert scene.store.list() == []
    assert scene.engine.loaded == set()
    await scene.look()
    assert scene.folder(job_id).candidate.is_dir(), "kept for whoever wants to know why"


async def test_base_that_cannot_be_loaded_now_is_waited_for_with_the_reason(scene: Scene) -> None:
    scene.engine.error = ModelUnavailableError("The model is loading.")
    job_id = await scene.trained()
    await scene.look()
    await asyncio.sleep(0.2)
    assert "The model is loading." in scene.row(job_id)["wait_reason"]
    assert scene.row(job_id)["status"] == "running"
    scene.engine.error = None
    scene.open()  # its clock stands still, and so does the pause
    assert (await scene.finished(job_id))["status"] == "succeeded"


async def test_publication_cut_by_a_restart_is_done_again(scene: Scene) -> None:
    scene.engine.may_answer.clear()
    job_id = await scene.trained()
    await scene.look()
    await asyncio.sleep(0.1)
    await scene.scheduler.close()
    assert scene.row(job_id)["status"] == "running"
    scene.engine.may_answer.set()
    scene.open()
    assert (await scene.finished(job_id))["adapter_id"] == f"{BASE}:shop@v1"


async def test_kill_between_publishing_and_its_record_publishes_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = await scene.trained()
    publish = scene.store.publish

    def publish_and_die(*args: Any) -> Adapter:
        publish(*args)
        raise asyncio.CancelledError  # what comes after it in the killed process never happens

    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "publish", publish_and_die)
        await scene.look()
        while not scene.store.list():  # noqa: ASYNC110  # it is done in a thread
            await asyncio.sleep(0.01)
        await scene.scheduler.close()
    assert (scene.row(job_id)["status"], scene.row(job_id)["phase"]) == ("running", "checking")
    scene.open()
    row = await scene.finished(job_id)
    assert (row["status"], row["adapter_id"]) == ("succeeded", f"{BASE}:shop@v1")
    assert len(scene.store.list()) == 1


async def test_two_hubs_that_check_the_same_adapter_publish_it_once(scene: Scene) -> None:
    """As while a redeployment has the old process and the new one."""
    job_id = await scene.trained()
    scene.engine.may_answer.clear()
    old, new = scene.scheduler, scene.open()
    await asyncio.gather(old.look(), new.look())
    await asyncio.sleep(0.1)
    scene.engine.may_answer.set()
    assert (await scene.finished(job_id))["status"] == "succeeded"
    await asyncio.sleep(0.3)
    assert [adapter.adapter_id for adapter in scene.store.list()] == [f"{BASE}:shop@v1"]
    assert scene.rows.messages(job_id).count(f"The adapter is published as {BASE}:shop@v1.") == 1
    await old.close()


async def test_cancel_while_the_adapter_is_asked_leaves_nothing(scene: Scene) -> None:
    scene.engine.may_answer.clear()
    job_id = await scene.trained()
    await scene.look()
    await asyncio.sleep(0.1)
    scene.rows.wish(job_id, "cancel")
    assert (await scene.finished(job_id))["status"] == "cancelled"
    assert scene.store.list() == []
    assert scene.engine.loaded == set()
    await scene.look()
    assert not scene.folder(job_id).path.exists() or not list(scene.folder(job_id).path.iterdir())


async def test_cancel_waits_for_no_engine_and_ends_without_it_after_a_while(scene: Scene) -> None:
    scene.engine.may_answer.clear()
    scene.engine.may_remove.clear()
    job_id = await scene.trained()
    await scene.look()
    await asyncio.sleep(0.1)
    other = scene.rows.add()
    for age_s, status in ((0, "running"), (STOP_PATIENCE_S - 5, "running"), (STOP_PATIENCE_S + 1, "cancelled")):
        scene.rows.wish(job_id, "cancel", age_s=age_s)
        await asyncio.wait_for(scene.look(), 2)
        await asyncio.sleep(0)
        assert scene.row(job_id)["status"] == status
    await scene.look()
    assert scene.row(other)["status"] == "running"
    assert len(scene.engine.loaded) == 1
    scene.engine.may_remove.set()
    await asyncio.sleep(0.1)
    assert scene.engine.loaded == set(), "the removal went on"
    assert (scene.row(job_id)["status"], scene.engine.calls.count("remove")) == ("cancelled", 1)


async def test_adapter_whose_load_took_too_long_is_taken_out_again(scene: Scene) -> None:
    scene.engine.load_error = EngineTimeoutError("Too slow.")
    job_id = await scene.trained()
    await scene.look()
    await asyncio.sleep(0.2)
    assert scene.engine.calls == [f"ensure {BASE}", "load", "remove"]
    assert "Too slow." in scene.row(job_id)["wait_reason"]


@pytest.mark.parametrize("error", [EngineTimeoutError("Too slow."), InternalError("The model failed.")])
async def test_adapter_that_stays_in_the_engine_does_not_change_how_its_job_ends(scene: Scene, error: HubError) -> None:
    scene.engine.remove_error = error
    assert (await scene.finished(await scene.trained()))["status"] == "succeeded"
    scene.engine.load_error = AdapterUnusableError("rank 512 is more than 64")
    row = await scene.finished(await scene.trained())
    assert (row["status"], row["error"]["code"]) == ("failed", "adapter_unusable")


async def test_cancel_after_publishing_comes_too_late(scene: Scene) -> None:
    job_id = await scene.trained()
    scene.store.publish(scene.folder(job_id).candidate, replace(manifest(base=BASE), job_id=job_id))
    scene.rows.wish(job_id, "cancel")
    row = await scene.finished(job_id)
    assert (row["status"], row["adapter_id"]) == ("succeeded", f"{BASE}:shop@v1")


async def test_base_removed_meanwhile_fails_the_job(scene: Scene) -> None:
    job_id = await scene.trained()
    scene.bases.clear()
    assert (await scene.finished(job_id))["error"]["code"] == "base_model_gone"


async def test_error_nobody_expects_is_tried_again_and_ends_the_job_in_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(scene.engine, "ensure", broken)
    job_id = await scene.trained()
    for _ in range(MOST_SURPRISES):
        assert scene.row(job_id)["status"] == "running"
        scene.checks._again_s.clear()
        await scene.look()
        await asyncio.sleep(0.2)
    row = scene.row(job_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "internal_error")
    assert "ZeroDivision" not in row["error"]["message"]


@pytest.mark.parametrize("error", [EngineTimeoutError("Too slow."), InternalError("The model failed.")])
async def test_answer_that_failed_by_the_engine_is_asked_for_again(scene: Scene, error: HubError) -> None:
    scene.engine.answer_error = error
    job_id = await scene.trained()
    await scene.look()
    await asyncio.sleep(0.2)
    assert scene.row(job_id)["status"] == "running"
    scene.engine.answer_error = None
    await scene.scheduler.close()
    scene.open()
    assert (await scene.finished(job_id))["status"] == "succeeded"


async def test_next_job_takes_the_room_once_the_adapter_before_it_is_checked(scene: Scene) -> None:
    """Base and training may not fit together: what takes the room first keeps the other out for hours."""
    scene.engine.may_answer.clear()
    first = await scene.trained()
    second = scene.rows.add()
    await scene.look(2)
    assert scene.room.held == {}
    assert (scene.row(second)["status"], scene.row(second)["wait_reason"]) == (
        "queued",
        f"The adapter of {first} is checked first.",
    )
    scene.engine.may_answer.set()
    assert (await scene.finished(first))["status"] == "succeeded"
    await scene.look()
    assert (scene.row(second)["phase"], scene.row(second)["wait_reason"]) == ("training", None)


async def test_base_that_does_not_load_holds_the_queue_up_for_a_while_only(scene: Scene) -> None:
    scene.engine.error = ModelUnavailableError("The model does not load.")
    first = await scene.trained()
    second = scene.rows.add()
    scene.rows.quiet_for(first, CHECKED_FIRST_S - 30)
    await scene.look()
    assert scene.row(second)["status"] == "queued"
    scene.rows.quiet_for(first, CHECKED_FIRST_S + 1)
    await scene.look()
    assert (scene.row(first)["phase"], scene.row(second)["phase"]) == ("checking", "training")
