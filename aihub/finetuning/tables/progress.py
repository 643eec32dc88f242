"""What a job's first worker tells PostgreSQL while it trains, and what it learns from there. Blocking.

Nothing waits for PostgreSQL: a thread of its own writes every second what has come since, and keeps it while nobody answers.
"""

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, Self

import psycopg
from psycopg.types.json import Jsonb

from aihub.core.errors import ConflictError, StorageUnavailableError
from aihub.finetuning.results import StepReport
from aihub.finetuning.tables.locked_connection import LockedConnection, worker_lock
from aihub.finetuning.tables.session import INSERT_EVENT, IS_MINE

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
START_PATIENCE_S = 60.0
"""How long a worker waits at its start for PostgreSQL, and for a worker before it to end."""
END_PATIENCE_S = 30.0
"""How long the last rows are tried to be written."""
MOST_WAITING = 20_000
"""Reports kept while PostgreSQL is away; older ones are dropped."""
MOST_EVENTS = 200
"""Steps of a job that become an event each, besides evaluations."""

_UPSERT_STEP = """
    INSERT INTO finetuning_progress (tenant_id, job_id, step, loss, eval_loss, tokens_per_s, memory_bytes, seconds_left)
    VALUES (%(tenant)s, %(id)s, %(step)s, %(loss)s, %(eval_loss)s, %(tokens_per_s)s, %(memory_bytes)s, %(seconds_left)s)
    ON CONFLICT (tenant_id, job_id, step) DO UPDATE SET loss = excluded.loss,
        eval_loss = coalesce(excluded.eval_loss, finetuning_progress.eval_loss), tokens_per_s = excluded.tokens_per_s,
        memory_bytes = excluded.memory_bytes, seconds_left = excluded.seconds_left, created_at = now()
"""
_UPSERT_CHECKPOINT = """
    INSERT INTO finetuning_checkpoints (tenant_id, job_id, step, id, loss, eval_loss)
    VALUES (%(tenant)s, %(id)s, %(step)s, %(checkpoint)s, %(loss)s, %(eval_loss)s)
    ON CONFLICT (tenant_id, job_id, step) DO UPDATE SET loss = excluded.loss,
        eval_loss = coalesce(excluded.eval_loss, finetuning_checkpoints.eval_loss), created_at = now()
"""


@dataclass(frozen=True, slots=True)
class _Waiting:
    report: StepReport
    is_checkpoint: bool


class ProgressWriter:
    """A context manager; holds the lock of the job's worker.

    Args:
        attempt: Which start of the job this is.
    """

    def __init__(self, dsn: str, *, tenant: str, job_id: str, attempt: int, period_s: float = PERIOD_S) -> None:
        self._key: dict[str, Any] = {"tenant": tenant, "id": job_id, "attempt": attempt}
        self._period_s = period_s
        self._connection = LockedConnection(dsn, worker_lock(tenant, job_id))
        self._waiting: deque[_Waiting] = deque(maxlen=MOST_WAITING)
        self._phase = "training"
        self._stopping = threading.Event()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._write_regularly, name="job-progress", daemon=True)

    def __enter__(self) -> Self:
        """Wait for PostgreSQL and for the end of a worker before this one.

        Raises:
            ConflictError: That one does not end.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        deadline_s = time.monotonic() + START_PATIENCE_S
        while True:
            try:
                if not self._connection.open(deadline_s - time.monotonic()):
                    raise ConflictError(f"Another worker trains for the job {self._key['id']}.")
                break
            except psycopg.Error as error:
                if time.monotonic() + self._period_s > deadline_s:
                    raise StorageUnavailableError("The hub's database does not answer.") from error
                time.sleep(self._period_s)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left, and give the lock back."""
        self._stopping.set()
        self._thread.join(timeout=END_PATIENCE_S + START_PATIENCE_S)
        self._connection.close()

    def report(self, report: StepReport) -> None:
        """Tell of a step; a `Report` of `training.lora.train`."""
        self._waiting.append(_Waiting(report, is_checkpoint=False))

    def saved(self, report: StepReport) -> None:
        """Tell of a checkpoint."""
        self._waiting.append(_Waiting(report, is_checkpoint=True))

    def enter(self, phase: Literal["training", "evaluating"]) -> None:
        """Tell what is being done."""
        self._phase = phase

    def is_cancelled(self) -> bool:
        """Whether somebody asked the job to stop or to pause, or it goes on without this worker."""
        return self._cancelled.is_set()

    def _write_regularly(self) -> None:
        deadline_s = math.inf
        while True:
            is_last = self._stopping.wait(self._period_s)
            if is_last:
                deadline_s = min(deadline_s, time.monotonic() + END_PATIENCE_S)
            try:
                if not self._connection.is_open:
                    # The lock was this worker's before; who could have it now is a worker after it, which its driver began.
                    if not self._connection.open(0.0):
                        self._cancelled.set()
                        return
                self._write()
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                logger.warning("Progress of %s is written later: %s", self._key["id"], error)
                self._connection.close()
                if time.monotonic() < deadline_s:
                    continue
            except psycopg.Error:
                logger.exception("Progress of %s is lost", self._key["id"])
                self._waiting.clear()
            if is_last:
                return

    def _write(self) -> None:
        batch = list(self._waiting)
        if self._connection.run(lambda connection: self._write_batch(connection, batch)):
            self._cancelled.set()
        for item in batch:
            # Some may have been dropped meanwhile, as there were too many.
            if self._waiting and self._waiting[0] is item:
                self._waiting.popleft()

    def _write_batch(self, connection: psycopg.Connection[Any], batch: list[_Waiting]) -> bool:
        """Return whether the job shall stop."""
        last = batch[-1].report if batch else None
        values = self._key | {"phase": self._phase}
        change = "phase = %(phase)s"
        if last is not None:
            change += ", step = %(step)s, steps = %(of)s, seconds_left = %(seconds_left)s"
            values |= {"step": last.step, "of": last.of, "seconds_left": last.seconds_left}
        row = connection.execute(
            f"UPDATE finetuning_jobs SET {change} WHERE {IS_MINE} RETURNING wish",  # noqa: S608 - constants
            values,
        ).fetchone()
        if row is None:
            return True
        cursor = connection.cursor()
        cursor.executemany(_UPSERT_STEP, [self._step_row(item.report) for item in batch if not item.is_checkpoint])
        cursor.executemany(_UPSERT_CHECKPOINT, [self._step_row(item.report) for item in batch if item.is_checkpoint])
        cursor.executemany(INSERT_EVENT, [self._event_row(item.report) for item in batch if _is_told(item)])
        return row[0] is not None

    def _step_row(self, report: StepReport) -> dict[str, Any]:
        return self._key | {
            "step": report.step,
            "loss": report.loss,
            "eval_loss": report.eval_loss,
            "tokens_per_s": report.tokens_per_s,
            "memory_bytes": report.memory_bytes,
            "seconds_left": report.seconds_left,
            "checkpoint": checkpoint_id(str(self._key["id"]), report.step),
        }

    def _event_row(self, report: StepReport) -> dict[str, Any]:
        losses = {"train_loss": report.loss, "valid_loss": report.eval_loss}
        data = {name: loss for name, loss in losses.items() if loss is not None and math.isfinite(loss)}
        words = [f"{name.replace('_', ' ')} {loss:.4f}" for name, loss in data.items()]
        return self._key | {
            "level": "info",
            "type": "metrics",
            "message": f"Step {report.step}/{report.of}: {', '.join(words)}",
            "data": Jsonb({"step": report.step, "total_steps": report.of, "tokens_per_s": report.tokens_per_s} | data),
        }


def checkpoint_id(job_id: str, step: int) -> str:
    """Name of the checkpoint after a step, in the shape of OpenAI's."""
    return f"ftckpt-{job_id.removeprefix('ftjob-')}-{step}"


def _is_told(item: _Waiting) -> bool:
    report = item.report
    if item.is_checkpoint or (report.loss is None and report.eval_loss is None):
        return False
    every = math.ceil(report.of / MOST_EVENTS)
    return report.eval_loss is not None or report.step % every == 0 or report.step == report.of
