"""A running job's driver towards PostgreSQL: the job's lock, its heartbeat, and how it ends. Blocking."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.core.errors import ConflictError, HubError, StorageUnavailableError
from aihub.core.postgres_connection import translated_errors
from aihub.finetuning.tables.locked_connection import LockedConnection, job_lock

logger = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
LOCK_PATIENCE_S = 20.0
"""How long a driver waits for what is left of itself, a dead process or a lost connection, to let go of the lock."""
FINAL_PATIENCE_S = 600.0
"""How long the end of a job is tried to be written while PostgreSQL is away: hours of work hang on it."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0

IS_MINE = "tenant_id = %(tenant)s AND id = %(id)s AND attempts = %(attempt)s AND status = 'running'"
"""The job still runs, and by this start of it."""

STOPPED = (
    "status = CASE WHEN wish = 'pause' THEN 'paused' ELSE 'cancelled' END, phase = 'waiting', wish = NULL, wish_at = NULL, "
    "seconds_left = NULL, ended_at = CASE WHEN wish = 'pause' THEN NULL ELSE now() END"
)
"""What a job becomes that was asked to stop and has."""


@dataclass(frozen=True, slots=True)
class RunningJob:
    """What a driver has to know of its job.

    Attributes:
        datasets: `{"training": {...}, "validation": {...} | None}`, each a `DatasetReport`.
    """

    id: str
    name: str
    base_model: str
    settings: dict[str, Any]
    datasets: dict[str, Any]


class JobSession:
    """Holds a job's lock as long as it is open.

    A thread of its own says every few seconds that the job lives, and learns of a wish to stop. When PostgreSQL restarts, it
    takes the lock again.

    Args:
        attempt: Which start of the job this is.
        lost: Called, in the thread, once another process has the lock or the job has gone on without this one.
    """

    def __init__(
        self, dsn: str, *, tenant: str, job_id: str, attempt: int, lost: Callable[[], None], heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._key: dict[str, Any] = {"tenant": tenant, "id": job_id, "attempt": attempt}
        self._lost = lost
        self._heartbeat_s = heartbeat_s
        self._connection = LockedConnection(dsn, job_lock(tenant, job_id))
        self._stopping = threading.Event()
        self._heartbeat: threading.Thread | None = None
        self._wish: str | None = None

    @property
    def wish(self) -> str | None:
        """`cancel`, `pause` or None, as of the last heartbeat."""
        return self._wish

    def open(self) -> RunningJob:
        """Take the lock and read the job.

        Raises:
            ConflictError: Another process works on it, or it does not run any more.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        with translated_errors():
            if not self._connection.open(LOCK_PATIENCE_S):
                raise ConflictError(f"Another process works on the job {self._key['id']}.")
            job = self._connection.run(self._read)
            if job is None:
                self._connection.close()
                raise ConflictError(f"The job {self._key['id']} does not run any more.")
        self._heartbeat = threading.Thread(target=self._beat, name="job-heartbeat", daemon=True)
        self._heartbeat.start()
        return job

    def hand_over(self, *, metrics: Mapping[str, Any], evaluation: Mapping[str, Any], trained_tokens: int) -> None:
        """Write down that the adapter is there and waits for being checked by the serving engine; a wish to pause came too late.

        Raises:
            StorageUnavailableError: PostgreSQL did not answer for `FINAL_PATIENCE_S`.
        """
        values = {"metrics": Jsonb(dict(metrics)), "evaluation": Jsonb(dict(evaluation)), "tokens": trained_tokens}
        self._write_last(
            "phase = 'checking', metrics = %(metrics)s, evaluation = %(evaluation)s, trained_tokens = %(tokens)s, "
            "seconds_left = NULL, wish = nullif(wish, 'pause'), wish_at = CASE WHEN wish = 'cancel' THEN wish_at END",
            values,
            "The adapter is trained and evaluated; the serving engine is asked next.",
        )

    def fail(self, error: HubError) -> None:
        """Write down that the job failed.

        Raises:
            StorageUnavailableError: PostgreSQL did not answer for `FINAL_PATIENCE_S`.
        """
        self._write_last(
            "status = 'failed', phase = 'waiting', wish = NULL, wish_at = NULL, seconds_left = NULL, ended_at = now(), "
            "error = %(error)s",
            {"error": Jsonb({"code": error.code, "message": error.message, "param": error.param})},
            error.message,
            level="error",
        )

    def stop(self) -> None:
        """Write down that the job has stopped as it was asked to: it is paused, or cancelled.

        Raises:
            StorageUnavailableError: PostgreSQL did not answer for `FINAL_PATIENCE_S`.
        """
        self._write_last(STOPPED, {}, "The training has stopped as it was asked to.")

    def close(self) -> None:
        """Give the lock back; harmless when closed."""
        self._stop_heartbeat()
        self._connection.close()

    def _read(self, connection: psycopg.Connection[Any]) -> RunningJob | None:
        cursor = connection.cursor(row_factory=class_row(RunningJob))
        cursor.execute(
            f"UPDATE finetuning_jobs SET heartbeat_at = now() WHERE {IS_MINE} "  # noqa: S608 - a constant
            "RETURNING id, name, base_model, settings, datasets",
            self._key,
        )
        return cursor.fetchone()

    def _beat(self) -> None:
        while not self._stopping.wait(self._heartbeat_s):
            try:
                if not self._connection.is_open and not self._connection.open(LOCK_PATIENCE_S):
                    logger.error("Another process has taken the job %s over; this one stops.", self._key["id"])
                    self._lost()
                    return
                row = self._connection.run(self._touch)
            except psycopg.Error as error:
                logger.warning("The job %s could not write its heartbeat: %s", self._key["id"], error)
                self._connection.close()
                continue
            if row is None:
                logger.error("The job %s does not run any more; its process stops.", self._key["id"])
                self._lost()
                return
            self._wish = row[0]

    def _touch(self, connection: psycopg.Connection[Any]) -> tuple[Any, ...] | None:
        return connection.execute(
            f"UPDATE finetuning_jobs SET heartbeat_at = now() WHERE {IS_MINE} RETURNING wish",  # noqa: S608 - a constant
            self._key,
        ).fetchone()

    def _stop_heartbeat(self) -> None:
        self._stopping.set()
        if self._heartbeat is not None:
            self._heartbeat.join(timeout=LOCK_PATIENCE_S + 30)
            self._heartbeat = None

    def _write_last(self, change: str, values: Mapping[str, Any], message: str, *, level: str = "info") -> None:
        """Write the last word; again and again while PostgreSQL is away."""
        self._stop_heartbeat()

        def write(connection: psycopg.Connection[Any]) -> None:
            cursor = connection.execute(
                f"UPDATE finetuning_jobs SET heartbeat_at = now(), {change} WHERE {IS_MINE}",  # noqa: S608 - constants
                self._key | dict(values),
            )
            if cursor.rowcount:
                write_event(connection, self._key["tenant"], self._key["id"], message, level=level)

        deadline_s, pause_s = time.monotonic() + FINAL_PATIENCE_S, _FIRST_PAUSE_S
        while True:
            try:
                with translated_errors():
                    if not self._connection.is_open and not self._connection.open(LOCK_PATIENCE_S):
                        raise ConflictError(f"Another process has taken the job {self._key['id']} over.")
                    self._connection.run(write)
                return
            except StorageUnavailableError as error:
                self._connection.close()
                is_passing = isinstance(error.__cause__, psycopg.OperationalError | psycopg.InterfaceError)
                if not is_passing or time.monotonic() + pause_s > deadline_s:
                    raise
            logger.warning("The end of the job %s could not be written; next try in %g s.", self._key["id"], pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


INSERT_EVENT = (
    "INSERT INTO finetuning_events (tenant_id, job_id, level, type, message, data) "
    "VALUES (%(tenant)s, %(id)s, %(level)s, %(type)s, %(message)s, %(data)s)"
)


def write_event(
    connection: psycopg.Connection[Any],
    tenant: str,
    job_id: str,
    message: str,
    *,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Add an event; with `data` it is one of type `metrics`.

    Raises:
        psycopg.Error: PostgreSQL does not answer, or there is no such job.
    """
    values = {"tenant": tenant, "id": job_id, "level": level, "message": message}
    connection.execute(
        INSERT_EVENT,
        values | {"type": "message" if data is None else "metrics", "data": None if data is None else Jsonb(dict(data))},
    )
