"""A driver's session and a worker's progress on a real PostgreSQL, with restarts of it and two that want the same job."""

import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from aihub.core.errors import ConflictError, InvalidRequestError
from aihub.finetuning.results import StepReport
from aihub.finetuning.tables import locked_connection, progress, session
from aihub.finetuning.tables.progress import ProgressWriter
from aihub.finetuning.tables.session import JobSession
from tests.external_servers import ExternalPostgres
from tests.unit.finetuning.job_parts import JobRows

FAST_S = 0.05


def step(number: int, *, of: int = 10, loss: float | None = 1.5, eval_loss: float | None = None) -> StepReport:
    return StepReport(number, of, loss, eval_loss, tokens_per_s=100.0, memory_bytes=2**30, seconds_left=3.0)


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


class Drivers:
    """Opens sessions and closes them in the end."""

    def __init__(self, rows: JobRows) -> None:
        self.rows = rows
        self.lost = threading.Event()
        self._open: list[JobSession] = []

    def session(self, job_id: str, attempt: int = 1) -> JobSession:
        made = JobSession(
            self.rows.dsn,
            tenant=self.rows.tenant,
            job_id=job_id,
            attempt=attempt,
            lost=self.lost.set,
            heartbeat_s=FAST_S,
        )
        self._open.append(made)
        return made

    def progress(self, job_id: str, attempt: int = 1) -> ProgressWriter:
        return ProgressWriter(self.rows.dsn, tenant=self.rows.tenant, job_id=job_id, attempt=attempt, period_s=FAST_S)

    def close(self) -> None:
        for made in self._open:
            made.close()


@pytest.fixture
def drivers(rows: JobRows) -> Iterator[Drivers]:
    opened = Drivers(rows)
    yield opened
    opened.close()


def running(rows: JobRows, **columns: object) -> str:
    return rows.add(status="running", phase="training", attempts=1, **columns)


def test_driver_reads_its_job_and_hands_the_adapter_over(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    driver = drivers.session(job_id)
    job = driver.open()
    assert (job.id, job.name, job.settings["rank"]) == (job_id, "shop", 16)
    rows.quiet_for(job_id, 100)
    until(lambda: rows.read(job_id)["heartbeat_at"].timestamp() > time.time() - 5)
    driver.hand_over(metrics={"loss": 0.5}, evaluation={"rows": 3}, trained_tokens=700)
    row = rows.read(job_id)
    assert (row["status"], row["phase"], row["metrics"], row["evaluation"]) == ("running", "checking", {"loss": 0.5}, {"rows": 3})
    assert row["trained_tokens"] == 700
    assert "serving engine is asked next" in rows.messages(job_id)[-1]


def test_wish_is_learned_within_a_heartbeat_and_decides_how_the_job_ends(rows: JobRows, drivers: Drivers) -> None:
    for wish, status in (("cancel", "cancelled"), ("pause", "paused")):
        job_id = running(rows)
        driver = drivers.session(job_id)
        driver.open()
        rows.wish(job_id, wish)
        until(lambda driver=driver, wish=wish: driver.wish == wish)
        driver.stop()
        row = rows.read(job_id)
        assert (row["status"], row["wish"], row["phase"]) == (status, None, "waiting")
        assert (row["ended_at"] is None) == (wish == "pause")


@pytest.mark.parametrize(("wish", "left"), [("pause", None), ("cancel", "cancel")])
def test_pause_that_comes_after_the_training_is_forgotten_and_a_cancel_is_not(
    rows: JobRows, drivers: Drivers, wish: str, left: str | None
) -> None:
    job_id = running(rows)
    driver = drivers.session(job_id)
    driver.open()
    rows.wish(job_id, wish)
    driver.hand_over(metrics={}, evaluation={}, trained_tokens=1)
    row = rows.read(job_id)
    assert (row["phase"], row["wish"], row["wish_at"] is None) == ("checking", left, left is None)


def test_failure_is_written_with_its_code_and_as_an_event(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    driver = drivers.session(job_id)
    driver.open()
    driver.fail(InvalidRequestError("Giá trị không phải là số.", code="training_diverged", param="learning_rate"))
    row = rows.read(job_id)
    assert (row["status"], row["error"]["code"], row["error"]["param"]) == ("failed", "training_diverged", "learning_rate")
    assert rows.rows("finetuning_events", job_id)[-1]["level"] == "error"


def test_second_driver_waits_for_the_first_and_is_refused(
    rows: JobRows, drivers: Drivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOCK_PATIENCE_S", 0.1)
    job_id = running(rows)
    first = drivers.session(job_id)
    first.open()
    with pytest.raises(ConflictError, match="Another process"):
        drivers.session(job_id).open()
    first.close()
    assert drivers.session(job_id).open().id == job_id


@pytest.mark.parametrize(("status", "attempts"), [("cancelled", 1), ("queued", 1), ("running", 2)])
def test_driver_of_a_job_that_went_on_without_it_does_nothing(
    rows: JobRows, drivers: Drivers, status: str, attempts: int
) -> None:
    job_id = rows.add(status=status, attempts=attempts)
    with pytest.raises(ConflictError, match="does not run any more"):
        drivers.session(job_id, attempt=1).open()
    assert rows.read(job_id)["heartbeat_at"] is None


def test_driver_leaves_when_its_job_ends_without_it_and_writes_nothing_more(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    driver = drivers.session(job_id)
    driver.open()
    rows.run("UPDATE finetuning_jobs SET status = 'interrupted' WHERE id = %(id)s", id=job_id)
    assert drivers.lost.wait(10)
    driver.hand_over(metrics={}, evaluation={}, trained_tokens=0)
    assert rows.read(job_id)["phase"] == "training"
    assert rows.messages(job_id) == []


def test_lost_connection_is_opened_again_with_the_lock(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    driver = drivers.session(job_id)
    driver.open()
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %(name)s"
    rows.run(cut, name=locked_connection.APPLICATION_NAME)
    rows.wish(job_id, "cancel")
    until(lambda: driver.wish == "cancel")
    assert not drivers.lost.is_set()
    driver.stop()
    assert rows.read(job_id)["status"] == "cancelled"


def test_end_is_written_when_postgres_comes_back(
    external_postgres: ExternalPostgres, tenant: str, request: pytest.FixtureRequest
) -> None:
    rows = JobRows(external_postgres.url, tenant)
    drivers = Drivers(rows)
    job_id = running(rows)
    driver = drivers.session(job_id)
    driver.open()
    request.addfinalizer(drivers.close)
    with drivers.progress(job_id) as written:
        written.report(step(1))
        until(lambda: len(rows.rows("finetuning_progress", job_id)) == 1)
        external_postgres.crash()
        try:
            for number in range(2, 6):
                written.report(step(number))
            time.sleep(0.5)
            assert not written.is_cancelled()
        finally:
            external_postgres.start()
        until(lambda: len(rows.rows("finetuning_progress", job_id)) == 5)
    driver.hand_over(metrics={}, evaluation={}, trained_tokens=1)
    assert rows.read(job_id)["phase"] == "checking"
    assert not drivers.lost.is_set()


def test_worker_tells_steps_evaluations_and_checkpoints(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    with drivers.progress(job_id) as written:
        written.report(step(0, loss=None, eval_loss=2.5))
        for number in range(1, 11):
            written.report(step(number, eval_loss=1.2 if number == 10 else None))
        written.saved(step(10, eval_loss=1.2))
        until(lambda: rows.read(job_id)["step"] == 10)
        written.enter("evaluating")
        until(lambda: rows.read(job_id)["phase"] == "evaluating")
    row = rows.read(job_id)
    assert (row["steps"], row["seconds_left"]) == (10, 3.0)
    told = rows.rows("finetuning_progress", job_id)
    assert [(line["step"], line["loss"], line["eval_loss"]) for line in told[:2]] == [(0, None, 2.5), (1, 1.5, None)]
    (checkpoint,) = rows.rows("finetuning_checkpoints", job_id)
    assert (checkpoint["step"], checkpoint["id"]) == (10, f"ftckpt-{job_id.removeprefix('ftjob-')}-10")
    events = rows.rows("finetuning_events", job_id)
    assert events[-1]["message"] == "Step 10/10: train loss 1.5000, valid loss 1.2000"
    assert events[-1]["type"] == "metrics"
    assert events[-1]["data"] == {
        "step": 10, "total_steps": 10, "train_loss": 1.5, "valid_loss": 1.2, "tokens_per_s": 100.0,
    }  # fmt: skip


def test_long_training_has_a_bounded_number_of_events_and_every_progress_row(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    with drivers.progress(job_id) as written:
        for number in range(1, 1501):
            written.report(step(number, of=1500))
    assert len(rows.rows("finetuning_progress", job_id)) == 1500
    events = rows.rows("finetuning_events", job_id)
    assert 150 <= len(events) <= progress.MOST_EVENTS + 1
    assert events[-1]["data"]["step"] == 1500


def test_resumed_training_tells_a_step_again_and_keeps_what_it_was_evaluated_at(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    for loss, eval_loss in ((1.5, 1.2), (1.4, None)):
        with drivers.progress(job_id) as written:
            written.report(step(3, loss=loss, eval_loss=eval_loss))
    (row,) = rows.rows("finetuning_progress", job_id)
    assert (row["loss"], row["eval_loss"]) == (1.4, 1.2)


@pytest.mark.parametrize("wish", ["cancel", "pause"])
def test_worker_stops_for_a_wish(rows: JobRows, drivers: Drivers, wish: str) -> None:
    job_id = running(rows)
    with drivers.progress(job_id) as written:
        assert not written.is_cancelled()
        rows.wish(job_id, wish)
        until(written.is_cancelled)


def test_worker_of_an_earlier_start_stops_and_writes_nothing(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    rows.run("UPDATE finetuning_jobs SET attempts = 2 WHERE id = %(id)s", id=job_id)
    with drivers.progress(job_id, attempt=1) as written:
        written.report(step(1))
        until(written.is_cancelled)
    assert rows.rows("finetuning_progress", job_id) == []


def test_of_two_workers_the_second_begins_when_the_first_has_ended(
    rows: JobRows, drivers: Drivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = running(rows)
    with drivers.progress(job_id):
        monkeypatch.setattr(progress, "START_PATIENCE_S", 0.2)
        with pytest.raises(ConflictError, match="Another worker"), drivers.progress(job_id):
            pass
    with drivers.progress(job_id) as written:
        assert not written.is_cancelled()


def test_progress_of_a_job_that_was_deleted_does_no_harm(rows: JobRows, drivers: Drivers) -> None:
    job_id = running(rows)
    with drivers.progress(job_id) as written, psycopg.connect(rows.dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM finetuning_jobs WHERE id = %s", (job_id,))
        written.report(step(1))
        until(written.is_cancelled)
