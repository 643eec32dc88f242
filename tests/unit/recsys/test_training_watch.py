import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from aihub.core.job_server import JobServerError, JobState
from aihub.core.postgres import Database
from aihub.recsys import training_jobs
from aihub.recsys.data.mapping import load_mapping
from aihub.recsys.results import TrainingCancelledError
from aihub.recsys.tables import session as recsys_session
from aihub.recsys.tables.open_runs import OpenRunTable
from aihub.recsys.tables.runs import RunRecord, TrainingRunTable
from aihub.recsys.tables.session import TrainingSession
from aihub.recsys.training import TrainingPlace, train
from aihub.recsys.training_jobs import TrainingWatch
from tests.unit.recsys.model_parts import SmallTrainer
from tests.unit.recsys.shop_parts import MONDAY_S, Shop


class FakeJobs:
    """Jobs that do what the test says; knows those it was given."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, int], JobState] = {}
        self.parameters: dict[str, Any] = {}
        self.stopped: list[tuple[str, int]] = []
        self.is_away = False
        self.loses_answers = False

    def submit(self, command: Sequence[str], run_id: str, attempt: int, *, metadata: Mapping[str, str]) -> None:
        if self.is_away:
            raise JobServerError("no agent")
        self.states[run_id, attempt] = "alive"
        if self.loses_answers:
            raise JobServerError("connection reset")
        self.parameters = json.loads(command[command.index("--parameters") + 1])

    def state(self, run_id: str, attempt: int) -> JobState:
        return self.states.get((run_id, attempt), "unknown")

    def stop(self, run_id: str, attempt: int) -> None:
        self.stopped.append((run_id, attempt))


class Scene:
    def __init__(self, shop: Shop, database: Database) -> None:
        self.shop = shop
        self.runs = TrainingRunTable(database)
        self.open_runs = OpenRunTable(database)
        self.jobs = FakeJobs()
        self.watch = TrainingWatch(self.open_runs, self.jobs)
        self.trainer = SmallTrainer()

    async def started(self) -> str:
        run = await self.runs.create(self.shop.tenant, 1, "recommendation", {"dim": 50})
        self.jobs.states[run.id, 1] = "alive"
        return run.id

    async def begun_and_died(self) -> str:
        """A training whose process was killed: its lock is free, and nothing was written down."""
        run_id = await self.started()
        self.process(run_id).close()
        self.jobs.states[run_id, 1] = "ended"
        self.quiet_for(60, run_id)
        return run_id

    def process(self, run_id: str | None) -> TrainingSession:
        session = TrainingSession(self.shop.dsn, tenant=self.shop.tenant, store_id=1, model_type="recommendation", run_id=run_id)
        return session.open({})

    def quiet_for(self, seconds: float, run_id: str) -> None:
        self.shop.run(
            "UPDATE ai_training_log SET heartbeat_at = now() - %(s)s * interval '1 second' WHERE id = %(id)s",
            s=seconds,
            id=run_id,
        )

    def train(self, home: Path, run_id: str) -> None:
        place = TrainingPlace(self.shop.dsn, self.shop.dsn, load_mapping(), home)
        train(place, self.trainer, 1, "recommendation", {"dim": 50}, tenant=self.shop.tenant, run_id=run_id)

    async def row(self, run_id: str) -> RunRecord:
        return await self.runs.get(self.shop.tenant, run_id)


@pytest.fixture
def scene(shop: Shop, database: Database) -> Scene:
    return Scene(shop, database)


async def test_killed_training_is_started_again_under_its_id_and_succeeds(scene: Scene, tmp_path: Path) -> None:
    scene.shop.catalogue()
    scene.shop.customers(7)
    scene.shop.order(7, MONDAY_S, 11, 21, 31)
    run_id = await scene.begun_and_died()
    await scene.watch.look()
    row = await scene.row(run_id)
    assert (row.status, row.step, row.attempts) == ("running", "resuming", 2)
    assert scene.jobs.state(run_id, 2) == "alive"
    assert scene.jobs.parameters == {"dim": 50}
    scene.train(tmp_path, run_id)
    row = await scene.row(run_id)
    assert (row.status, row.attempts, row.served) == ("succeeded", 2, True)


async def test_training_that_lives_or_was_just_started_is_left_alone(scene: Scene) -> None:
    run_id = await scene.started()
    del scene.jobs.states[run_id, 1]  # about to be submitted
    await scene.watch.look()
    scene.jobs.states[run_id, 1] = "ended"  # of a process that only lost its job server
    living = scene.process(run_id)
    try:
        scene.quiet_for(60, run_id)
        await scene.watch.look()
        assert (await scene.row(run_id)).attempts == 1
    finally:
        living.close()


async def test_job_the_new_cluster_does_not_know_is_started_again(scene: Scene) -> None:
    run_id = await scene.started()
    scene.jobs.states.clear()
    scene.quiet_for(60, run_id)
    await scene.watch.look()
    row = await scene.row(run_id)
    assert (row.status, row.attempts) == ("queued", 2)


async def test_only_one_of_two_watchers_starts_it(scene: Scene) -> None:
    run_id = await scene.begun_and_died()
    (seen,) = [run for run in await scene.open_runs.list() if run.id == run_id]
    assert await scene.open_runs.claim(seen)
    assert not await scene.open_runs.claim(seen)
    assert (await scene.row(run_id)).attempts == 2


async def test_training_that_dies_three_times_fails_and_says_what_to_do(scene: Scene) -> None:
    run_id = await scene.begun_and_died()
    for attempt in (2, 3):
        await scene.watch.look()
        scene.jobs.states[run_id, attempt] = "ended"
        scene.quiet_for(60, run_id)
    await scene.watch.look()
    row = await scene.row(run_id)
    assert (row.status, row.attempts) == ("failed", 3)
    assert row.error is not None
    assert row.error["code"] == "training_died"
    assert "start it again" in row.error["message"]


async def test_start_no_job_server_takes_does_not_count(scene: Scene) -> None:
    run_id = await scene.begun_and_died()
    scene.jobs.is_away = True
    for _ in range(5):
        await scene.watch.look()
        scene.quiet_for(60, run_id)
    assert (await scene.row(run_id)).attempts == 1
    scene.jobs.is_away = False
    await scene.watch.look()
    assert (await scene.row(run_id)).attempts == 2


async def test_cancel_ends_a_dead_training_at_once_and_a_new_one_may_start(scene: Scene) -> None:
    run_id = await scene.begun_and_died()
    assert (await scene.runs.request_cancel(scene.shop.tenant, run_id)).status == "cancelled"
    await scene.watch.look()
    assert (await scene.row(run_id)).attempts == 1
    await scene.started()


async def test_cancel_between_two_starts_ends_the_second_before_it_works(scene: Scene, tmp_path: Path) -> None:
    run_id = await scene.begun_and_died()
    await scene.watch.look()
    assert (await scene.runs.request_cancel(scene.shop.tenant, run_id)).status == "cancelled"
    with pytest.raises(TrainingCancelledError):
        scene.train(tmp_path, run_id)
    assert (await scene.row(run_id)).status == "cancelled"


async def test_living_training_is_asked_and_its_death_on_the_way_counts_as_cancelled(scene: Scene) -> None:
    run_id = await scene.started()
    living = scene.process(run_id)
    assert (await scene.runs.request_cancel(scene.shop.tenant, run_id)).status == "running"
    living.close()
    scene.jobs.states[run_id, 1] = "ended"
    await scene.watch.look()
    assert (await scene.row(run_id)).status == "cancelled"


async def test_training_that_does_not_stop_when_asked_is_ended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_jobs, "CANCEL_PATIENCE_S", 0)
    run_id = await scene.started()
    frozen = scene.process(run_id)
    try:
        await scene.runs.request_cancel(scene.shop.tenant, run_id)
        await scene.watch.look()
        assert scene.jobs.stopped == [(run_id, 1)]
    finally:
        frozen.close()


async def test_job_stopped_by_hand_counts_as_cancelled(scene: Scene) -> None:
    run_id = await scene.begun_and_died()
    scene.jobs.states[run_id, 1] = "stopped"
    await scene.watch.look()
    assert (await scene.row(run_id)).status == "cancelled"


async def test_training_waits_for_the_rest_of_its_dead_process_but_not_for_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recsys_session, "LOCK_PATIENCE_S", 0.1)
    run_id = await scene.started()
    other = scene.process(None)
    try:
        with pytest.raises(Exception, match=other.run_id):
            scene.process(run_id)
    finally:
        other.close()
    row = await scene.row(run_id)
    assert row.error is not None
    assert (row.status, row.error["code"]) == ("failed", "already_training")


async def test_interrupted_job_is_no_end_and_an_interrupted_command_is_one(scene: Scene) -> None:
    for run_id, status in ((await scene.started(), "running"), (None, "interrupted")):
        session = scene.process(run_id)
        session.end("interrupted", code="internal_error", message="The process was stopped.")
        session.close()
        assert (await scene.row(session.run_id)).status == status


async def test_silent_training_of_the_command_line_is_dead_and_never_started_again(scene: Scene) -> None:
    session = scene.process(None)
    session.close()
    scene.quiet_for(120, session.run_id)
    await scene.watch.look()
    row = await scene.row(session.run_id)
    assert (row.status, row.attempts) == ("interrupted", 0)
    await scene.started()


async def test_start_whose_answer_was_lost_counts(scene: Scene) -> None:
    run_id = await scene.begun_and_died()
    scene.jobs.loses_answers = True
    await scene.watch.look()
    scene.jobs.loses_answers = False
    assert (await scene.row(run_id)).attempts == 2
    assert scene.jobs.states[run_id, 2] == "alive"
