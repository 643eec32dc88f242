"""The driver of a job on a real PostgreSQL; its workers do what the test says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import ConflictError, HubError
from aihub.finetuning.adapter_folder import WEIGHTS
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.results import TrainingCancelledError, TrainingDivergedError
from aihub.finetuning.tables import session
from tests.unit.finetuning.adapter_parts import build_candidate, manifest
from tests.unit.finetuning.job_parts import BASE, JobRows
from training import finetune
from training.worker_task import WorkerResult, WorkerTask

RESULT = WorkerResult({"loss": 0.5}, {"rows": 3}, 700)


@pytest.fixture
def rows(embedded_stores: StoreUrls, tenant: str) -> Iterator[JobRows]:
    jobs = JobRows(embedded_stores.database_url, tenant)
    yield jobs
    jobs.remove()


class Drive:
    """Runs drivers; `tasks` are those that their workers were given."""

    def __init__(self, rows: JobRows, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self.rows, self.home = rows, home
        self.outcome: WorkerResult | Exception = RESULT
        self.tasks: list[WorkerTask] = []
        monkeypatch.setenv("DATABASE_URL", rows.dsn)
        monkeypatch.setenv("AIHUB_HOME", str(home))
        monkeypatch.setattr(finetune.ray, "init", lambda **_: None)
        monkeypatch.setattr(finetune, "train_on_workers", self._train)

    def _train(self, task: WorkerTask, *, workers: int) -> WorkerResult:
        self.tasks.append(task)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def job(self, **columns: Any) -> str:
        return self.rows.add(status="running", phase="training", attempts=1, **columns)

    def run(self, job_id: str, attempt: int = 1) -> None:
        finetune.run(job_id, tenant=self.rows.tenant, attempt=attempt, base=self.home / "base", workers=1, cluster="127.0.0.1:1")


@pytest.fixture
def drive(rows: JobRows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Drive:
    return Drive(rows, monkeypatch, tmp_path)


def test_trained_job_waits_for_its_check_and_its_lock_is_free(drive: Drive, rows: JobRows) -> None:
    job_id = drive.job()
    drive.run(job_id)
    row = rows.read(job_id)
    assert (row["status"], row["phase"], row["metrics"], row["trained_tokens"]) == ("running", "checking", {"loss": 0.5}, 700)
    (task,) = drive.tasks
    assert (task.job_id, task.base_name, task.settings.rank, task.current) == (job_id, BASE, 16, None)
    assert (task.training_sha256, task.validation_sha256) == ("0" * 64, None)


def test_workers_are_told_which_adapter_is_in_use(drive: Drive) -> None:
    store = AdapterStore(drive.home)
    store.publish(build_candidate(drive.home / "candidate"), manifest(base=BASE))
    store.promote(f"{BASE}:shop@v1")
    drive.run(drive.job())
    assert drive.tasks[0].current == (f"{BASE}:shop@v1", store.get(f"{BASE}:shop@v1").path)


def test_damaged_adapter_in_use_counts_as_none(drive: Drive, caplog: pytest.LogCaptureFixture) -> None:
    store = AdapterStore(drive.home)
    adapter = store.publish(build_candidate(drive.home / "candidate"), manifest(base=BASE))
    store.promote(adapter.adapter_id)
    (adapter.path / WEIGHTS).unlink()
    drive.run(drive.job())
    assert drive.tasks[0].current is None
    assert f"The adapter {adapter.adapter_id} is damaged" in caplog.text


def test_failure_of_the_training_is_the_end_of_the_job(drive: Drive, rows: JobRows) -> None:
    job_id = drive.job()
    drive.outcome = TrainingDivergedError("At step 3 the loss is no number any more.")
    with pytest.raises(TrainingDivergedError):
        drive.run(job_id)
    assert (rows.read(job_id)["status"], rows.read(job_id)["error"]["code"]) == ("failed", "training_diverged")


def test_settings_of_another_release_fail_the_job(drive: Drive, rows: JobRows) -> None:
    job_id = drive.job()
    rows.run("UPDATE finetuning_jobs SET settings = settings || '{\"bogus\": 1}' WHERE id = %(id)s", id=job_id)
    with pytest.raises(HubError, match="bogus"):
        drive.run(job_id)
    assert rows.read(job_id)["status"] == "failed"


@pytest.mark.parametrize(("wish", "status"), [("cancel", "cancelled"), ("pause", "paused")])
def test_stopped_training_is_what_was_asked_for(drive: Drive, rows: JobRows, wish: str, status: str) -> None:
    job_id = drive.job()
    rows.wish(job_id, wish)
    drive.outcome = TrainingCancelledError("after step 3")
    with pytest.raises(TrainingCancelledError):
        drive.run(job_id)
    assert rows.read(job_id)["status"] == status


def test_surprise_leaves_the_job_to_be_started_again(drive: Drive, rows: JobRows) -> None:
    job_id = drive.job()
    drive.outcome = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        drive.run(job_id)
    assert rows.read(job_id)["status"] == "running"
    drive.outcome = RESULT
    drive.run(job_id)  # the lock of the first is free
    assert rows.read(job_id)["phase"] == "checking"


def test_driver_of_an_earlier_start_trains_nothing(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LOCK_PATIENCE_S", 0.1)
    with pytest.raises(ConflictError, match="does not run any more"):
        drive.run(drive.job(), attempt=2)
    assert drive.tasks == []
