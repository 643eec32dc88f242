"""One worker on the tiny model and a real PostgreSQL: trained, evaluated, told, and what the next step needs on the disk."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import ConflictError
from aihub.core.files import file_sha256
from aihub.finetuning.evaluation import EvaluationReport
from aihub.finetuning.job_folder import JobFolder
from aihub.finetuning.questions import read_questions
from aihub.finetuning.results import TrainingCancelledError
from tests.unit.finetuning.job_parts import JobRows
from tests.unit.training.tiny_model import SETTINGS, questions
from training import worker
from training.worker_task import WorkerTask


@pytest.fixture
def rows(embedded_stores: StoreUrls, tenant: str) -> Iterator[JobRows]:
    jobs = JobRows(embedded_stores.database_url, tenant)
    yield jobs
    jobs.remove()


def write_rows(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [{"prompt": row.turns[0].text, "completion": row.turns[-1].text} for row in questions()]
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    return file_sha256(path)


def task(rows: JobRows, base: Path, home: Path, **changes: Any) -> WorkerTask:
    job_id = rows.add(status="running", phase="training", attempts=1)
    folder = JobFolder.of(home, job_id)
    return WorkerTask(
        dsn=rows.dsn,
        tenant=rows.tenant,
        job_id=job_id,
        attempt=1,
        folder=folder,
        base=base,
        base_name="tiny",
        settings=SETTINGS.model_copy(update={"epochs": 4, "validation_share": 0.3} | changes),
        training_sha256=write_rows(folder.training),
        validation_sha256=None,
        current=None,
    )


def test_worker_trains_evaluates_and_leaves_adapter_questions_and_logs(rows: JobRows, base: Path, tmp_path: Path) -> None:
    one = task(rows, base, tmp_path)
    result = worker.work(one)
    assert result is not None
    assert result.metrics["steps"] == 12  # five rows are learned, two at a time, four times
    assert result.trained_tokens == result.metrics["training_tokens"] * 4
    assert (result.evaluation["rows"], result.evaluation["is_held_out"]) == (2, True)
    assert result.evaluation["base"]["loss"] == pytest.approx(result.metrics["eval_loss_before"], abs=1e-4)
    assert sorted(path.name for path in one.folder.candidate.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert len(read_questions(one.folder.questions)) == 2
    assert any(path.name.startswith("events.out.tfevents") for path in one.folder.tensorboard.iterdir())
    assert [row["step"] for row in rows.rows("finetuning_progress", one.job_id)] == list(range(13))
    assert [row["step"] for row in rows.rows("finetuning_checkpoints", one.job_id)] == [3, 6, 9, 12]
    assert rows.read(one.job_id)["phase"] == "evaluating"


def test_second_start_of_a_trained_job_evaluates_only(rows: JobRows, base: Path, tmp_path: Path) -> None:
    one = task(rows, base, tmp_path)
    first = worker.work(one)
    rows.run("UPDATE finetuning_jobs SET attempts = 2 WHERE id = %(id)s", id=one.job_id)
    again = worker.work(replace(one, attempt=2))
    assert first is not None and again is not None
    assert again.evaluation == first.evaluation
    assert again.trained_tokens == first.trained_tokens


def test_wish_ends_the_worker_without_an_adapter(rows: JobRows, base: Path, tmp_path: Path) -> None:
    one = task(rows, base, tmp_path, epochs=1000)
    rows.wish(one.job_id, "pause")
    with pytest.raises(TrainingCancelledError):
        worker.work(one)
    assert not one.folder.candidate.exists()


def test_pause_while_it_evaluates_ends_the_worker_and_the_next_start_evaluates_again(
    rows: JobRows, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(rows, base, tmp_path)
    evaluate = worker.evaluate

    def evaluate_after_the_wish(*args: Any, cancelled: Callable[[], bool], **options: Any) -> EvaluationReport:
        rows.wish(one.job_id, "pause")
        while not cancelled():
            time.sleep(0.05)
        return evaluate(*args, cancelled=cancelled, **options)

    with monkeypatch.context() as patch, pytest.raises(TrainingCancelledError):
        patch.setattr(worker, "evaluate", evaluate_after_the_wish)
        worker.work(one)
    rows.run("UPDATE finetuning_jobs SET attempts = 2, wish = NULL WHERE id = %(id)s", id=one.job_id)
    again = worker.work(replace(one, attempt=2))
    assert again is not None
    assert again.evaluation["rows"] == 2
    assert again.metrics["steps"] == 12


def test_data_that_changed_since_they_were_accepted_are_refused(rows: JobRows, base: Path, tmp_path: Path) -> None:
    one = task(rows, base, tmp_path)
    one.folder.training.write_text('{"prompt": "a", "completion": "b"}', encoding="utf-8")
    with pytest.raises(ConflictError, match="has changed"):
        worker.work(one)
