"""The queue, room, deaths and wishes, on the real table."""

import asyncio
from pathlib import Path

import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.job_server import JobServerError
from aihub.core.postgres import Database
from aihub.finetuning import scheduler as scheduling
from aihub.finetuning.tables.locked_connection import LockedConnection, job_lock
from aihub.finetuning.training_settings import TrainingSettings
from tests.unit.finetuning.job_parts import BASE, JobRows
from tests.unit.finetuning.scheduler_parts import FakeBase, Scene


@pytest.fixture
def scene(rows: JobRows, database: Database, tmp_path: Path) -> Scene:
    return Scene(rows, database, tmp_path)


async def test_queued_job_gets_room_and_is_submitted_with_what_its_driver_needs(scene: Scene) -> None:
    job_id = scene.rows.add(need_bytes=123)
    await scene.look()
    row = scene.row(job_id)
    assert (row["status"], row["phase"], row["attempts"], row["wait_reason"]) == ("running", "training", 1, None)
    assert row["started_at"] is not None
    assert scene.room.held == {f"training {job_id}": 123}
    assert scene.jobs.commands[job_id, 1] == [
        "training.finetune", "--job-id", job_id, "--tenant", scene.rows.tenant, "--attempt", "1",
        "--base-folder", str(scene.home / "models" / BASE), "--workers", "1",
    ]  # fmt: skip
    assert scene.rows.messages(job_id) == ["The training starts."]


async def test_job_waits_with_the_reason_and_starts_once_there_is_room(scene: Scene) -> None:
    scene.room.refusal = "The model is in use."
    job_id, behind = scene.rows.add(), scene.rows.add()
    await scene.look(3)
    assert (scene.row(job_id)["status"], scene.row(job_id)["wait_reason"]) == ("queued", "The model is in use.")
    assert scene.row(behind)["status"] == "queued"
    scene.room.refusal = None
    await scene.look()
    assert scene.row(job_id)["status"] == "running"
    assert scene.row(behind)["wait_reason"] == f"{job_id} is being trained."


async def test_jobs_are_trained_one_after_the_other_in_the_order_of_the_queue(scene: Scene) -> None:
    jobs = [scene.rows.add() for _ in range(3)]
    for number, job_id in enumerate(jobs):
        await scene.look()
        assert [scene.row(other)["status"] for other in jobs[number:]] == ["running", *["queued"] * (len(jobs) - number - 1)]
        scene.rows.run("UPDATE finetuning_jobs SET status = 'failed' WHERE id = %(id)s", id=job_id)
    await scene.look()
    assert scene.room.held == {}


async def test_as_many_as_the_operator_allows_are_trained_at_a_time(scene: Scene) -> None:
    scene.settings = TrainingSettings(at_once=2)
    scene.open()
    jobs = [scene.rows.add() for _ in range(3)]
    await scene.look()
    assert [scene.row(job_id)["status"] for job_id in jobs] == ["running", "running", "queued"]


@pytest.mark.parametrize(("priority", "may_drain"), [("serving", False), ("training", True)])
async def test_models_in_use_make_room_only_where_trainings_come_first(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, priority: str, may_drain: bool
) -> None:
    monkeypatch.setenv("AIHUB_TRAINING_PRIORITY", priority)
    scene.settings = TrainingSettings()
    scene.open()
    await scene.started()
    assert scene.room.drained == [may_drain]


def test_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_TRAINING_WORKERS", "0")
    with pytest.raises(ConfigurationError, match="AIHUB_TRAINING_WORKERS"):
        TrainingSettings()


async def test_job_that_never_fits_fails_with_the_numbers_and_the_next_starts(scene: Scene) -> None:
    scene.room.capacity_bytes = 1000
    large, small = scene.rows.add(need_bytes=1001), scene.rows.add(need_bytes=1000)
    await scene.look()
    row = scene.row(large)
    assert (row["status"], row["error"]["code"]) == ("failed", "training_too_large")
    assert "1001 of 1000" in row["error"]["message"]
    assert scene.row(small)["status"] == "running"


async def test_job_whose_base_is_gone_fails_and_says_so(scene: Scene) -> None:
    running = await scene.started(base_model=BASE)
    queued = scene.rows.add()
    scene.died(running)
    scene.bases.clear()
    await scene.look(2)
    for job_id in (queued, running):
        assert (scene.row(job_id)["status"], scene.row(job_id)["error"]["code"]) == ("failed", "base_model_gone")
    assert scene.room.held == {}


async def test_job_cancelled_while_it_waits_gives_its_ask_back(scene: Scene) -> None:
    scene.room.refusal = "No."
    job_id = scene.rows.add()
    await scene.look()
    scene.room.held[f"training {job_id}"] = 1  # granted after the look
    scene.rows.run("UPDATE finetuning_jobs SET status = 'cancelled' WHERE id = %(id)s", id=job_id)
    await scene.look()
    assert scene.room.held == {}


async def test_room_of_others_is_left_alone(scene: Scene) -> None:
    scene.room.held["model"] = 1
    await scene.look()
    assert scene.room.held == {"model": 1}


async def test_of_two_schedulers_one_starts_the_job(scene: Scene) -> None:
    job_id = scene.rows.add()
    await asyncio.gather(scene.open().look(), scene.open().look())
    assert scene.row(job_id)["attempts"] == 1
    assert list(scene.jobs.states) == [(job_id, 1)]


async def test_job_that_no_job_server_takes_goes_back_to_its_place(scene: Scene) -> None:
    job_id = scene.rows.add()
    scene.jobs.is_away = True
    for _ in range(4):
        with pytest.raises(JobServerError):
            await scene.look()
        assert (scene.row(job_id)["status"], scene.row(job_id)["attempts"]) == ("queued", 0)
    scene.jobs.is_away = False
    await scene.look()
    assert (scene.row(job_id)["status"], scene.row(job_id)["attempts"]) == ("running", 1)


async def test_start_whose_answer_was_lost_counts(scene: Scene) -> None:
    job_id = scene.rows.add()
    scene.jobs.loses_answers = True
    with pytest.raises(JobServerError):
        await scene.look()
    await scene.look()
    assert (scene.row(job_id)["status"], scene.row(job_id)["attempts"]) == ("running", 1)


async def test_killed_driver_is_started_again_three_times_at_most(scene: Scene) -> None:
    job_id = await scene.started()
    for attempt in (2, 3):
        scene.died(job_id)
        await scene.look()
        assert (scene.row(job_id)["status"], scene.row(job_id)["attempts"]) == ("running", attempt)
        assert scene.jobs.states[job_id, attempt] == "alive"
    scene.died(job_id)
    await scene.look()
    row = scene.row(job_id)
    assert (row["status"], row["error"]["code"]) == ("failed", "training_died")
    assert scene.folder(job_id).work.is_dir(), "a failed job can be resumed"


async def test_deaths_count_from_the_last_resumption(scene: Scene) -> None:
    job_id = await scene.started()
    for _ in range(2):
        scene.died(job_id)
        await scene.look()
    scene.rows.run("UPDATE finetuning_jobs SET status = 'queued' WHERE id = %(id)s", id=job_id)
    await scene.look()
    scene.died(job_id)
    await scene.look()
    assert (scene.row(job_id)["status"], scene.row(job_id)["attempts"]) == ("running", 5)
    assert scene.rows.messages(job_id)[-2] == "The training goes on from its last checkpoint."


async def test_living_driver_is_left_alone_whatever_the_job_server_says(scene: Scene) -> None:
    job_id = await scene.started()
    lock = LockedConnection(scene.rows.dsn, job_lock(scene.rows.tenant, job_id))
    assert lock.open(1)
    try:
        scene.died(job_id)
        await scene.look()
        assert (scene.row(job_id)["status"], scene.row(job_id)["attempts"]) == ("running", 1)
    finally:
        lock.close()


async def test_job_of_a_cluster_that_is_gone_is_interrupted_after_a_while_and_can_be_resumed(scene: Scene) -> None:
    job_id = await scene.started()
    scene.jobs.states.clear()
    scene.rows.quiet_for(job_id, 10)
    await scene.look()
    assert scene.row(job_id)["status"] == "running"
    scene.rows.quiet_for(job_id, 30)
    await scene.look(2)
    assert scene.row(job_id)["status"] == "interrupted"
    assert "Resume the job" in scene.rows.messages(job_id)[-1]
    assert scene.room.held == {}
    assert scene.folder(job_id).work.is_dir()
    scene.rows.run("UPDATE finetuning_jobs SET status = 'queued' WHERE id = %(id)s", id=job_id)
    await scene.look()
    assert (scene.row(job_id)["status"], scene.row(job_id)["attempts"]) == ("running", 2)


async def test_ray_job_stopped_by_hand_is_interrupted(scene: Scene) -> None:
    job_id = await scene.started()
    scene.jobs.states[job_id, 1] = "stopped"
    scene.rows.quiet_for(job_id, 30)
    await scene.look()
    assert scene.row(job_id)["status"] == "interrupted"


async def test_cancelled_job_whose_worker_does_not_stop_is_ended_from_outside(scene: Scene) -> None:
    job_id = await scene.started()
    scene.folder(job_id).tensorboard.mkdir()
    scene.rows.wish(job_id, "cancel", age_s=1)
    await scene.look()
    assert scene.jobs.stopped == []
    scene.rows.wish(job_id, "cancel", age_s=scheduling.STOP_PATIENCE_S + 1)
    await scene.look(3)
    assert scene.jobs.stopped == [(job_id, 1)]
    assert scene.row(job_id)["status"] == "cancelled"
    assert scene.room.held == {}
    assert [path.name for path in scene.folder(job_id).path.iterdir()] == ["tensorboard"]


@pytest.mark.parametrize(("wish", "status"), [("cancel", "cancelled"), ("pause", "paused")])
async def test_driver_that_dies_after_a_wish_is_not_started_again(scene: Scene, wish: str, status: str) -> None:
    job_id = await scene.started()
    scene.rows.wish(job_id, wish)
    scene.died(job_id)
    await scene.look(2)
    assert (scene.row(job_id)["status"], scene.row(job_id)["attempts"]) == (status, 1)
    assert scene.folder(job_id).work.is_dir() == (wish == "pause")
    assert scene.room.held == {}


async def test_training_that_outlived_the_hub_is_adopted_and_one_that_did_not_is_not(scene: Scene) -> None:
    living = await scene.started()
    gone = scene.rows.add(status="running", phase="training", attempts=1)
    scene.room.held.clear()
    scene.open()
    await scene.look(3)
    assert scene.room.adopted == [f"training {living}"]
    assert scene.row(gone)["status"] == "running"  # for a while: it may have been submitted this moment


async def test_idle_scheduler_looks_rarely_and_wakes_at_a_nudge(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = scene.scheduler.look

    async def counted() -> bool:
        looks.append(1)
        return await look()

    monkeypatch.setattr(scene.scheduler, "look", counted)
    task = asyncio.create_task(scene.scheduler.run())
    try:
        await asyncio.sleep(0.5)
        assert len(looks) == 1
        job_id = scene.rows.add()
        scene.scheduler.nudge()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if scene.row(job_id)["status"] == "running":
                break
        assert scene.row(job_id)["status"] == "running"
        assert len(looks) == 2
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_files_of_jobs_that_ended_go_and_those_of_others_stay(scene: Scene) -> None:
    kept = {status: scene.rows.add(status=status) for status in ("queued", "paused", "interrupted", "failed")}
    gone = {status: scene.rows.add(status=status) for status in ("succeeded", "cancelled")}
    for job_id in (*kept.values(), *gone.values(), "ftjob-being-accepted"):
        scene.folder(job_id).work.mkdir(parents=True)
    scene.room.refusal = "No."
    await scene.look()
    assert all(scene.folder(job_id).work.is_dir() for job_id in (*kept.values(), "ftjob-being-accepted"))
    assert not any(scene.folder(job_id).work.exists() for job_id in gone.values())


async def test_base_installed_again_is_found(scene: Scene) -> None:
    scene.bases = {BASE: FakeBase(scene.home / "elsewhere")}
    scene.open()
    job_id = await scene.started()
    assert str(scene.home / "elsewhere") in scene.jobs.commands[job_id, 1]
