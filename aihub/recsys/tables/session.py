"""One running training towards PostgreSQL: the lock of its store and model, its heartbeat, and how it ends. Blocking."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

import psycopg
from psycopg.types.json import Jsonb

from aihub.core.errors import HubError, StorageUnavailableError
from aihub.core.postgres_connection import STATEMENT_TIMEOUT_S, connect, limited, translated_errors
from aihub.recsys.tables.runs import HEARTBEAT_S, INSERT_RUN, IS_OPEN, LOCK_NUMBER, UPSERT_STATUS, already_training, new_run_id

logger = logging.getLogger(__name__)

_TRY_LOCK = (
    f"SELECT pg_try_advisory_lock({LOCK_NUMBER}) FROM "  # noqa: S608 - a constant
    "(SELECT %(tenant)s::text AS tenant_id, %(store)s::bigint AS store_id, %(model_type)s::text AS model_type) AS key"
)
LOCK_PATIENCE_S = 20.0
"""How long a training waits for what is left of itself, a dead process or a lost connection, to let go of the lock."""
_LOCK_PAUSE_S = 0.5
APPLICATION_NAME = "aihub-training"


FINAL_PATIENCE_S = 600.0
"""How long the end of a training is tried to be written while PostgreSQL is away: hours of work hang on it."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


class ResultNotWrittenError(StorageUnavailableError):
    """A training has published its version and could not write that down; started again, it does only that."""

    code = "result_not_written"


class TrainingSession:
    """Holds the lock of one store and model as long as it is open; the server frees it when this process dies.

    A thread of its own writes progress every few seconds and learns of a wish to cancel. When PostgreSQL restarts, it takes
    the lock again; if another training was faster, this one counts as cancelled.
    """

    def __init__(
        self, dsn: str, *, tenant: str, store_id: int, model_type: str, run_id: str | None, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._dsn = dsn
        self._heartbeat_s = heartbeat_s
        self._key: dict[str, Any] = {"tenant": tenant, "id": run_id or new_run_id(), "store": store_id, "model_type": model_type}
        self._is_new = run_id is None
        self._step, self._share = "", 0.0
        self._stopping = threading.Event()
        self._cancel = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._backend_pid = 0
        self._heartbeat: threading.Thread | None = None

    @property
    def run_id(self) -> str:
        return str(self._key["id"])

    def open(self, hyper_parameters: Mapping[str, Any]) -> Self:
        """Take the lock and write down that the training runs.

        Raises:
            ConflictError: The same store and model is being trained.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        with translated_errors():
            self._connection = self._connect()
            try:
                with limited(self._connection, LOCK_PATIENCE_S + STATEMENT_TIMEOUT_S):
                    self._begin(self._connection, hyper_parameters)
            except BaseException:
                self._connection.close()
                raise
        self._heartbeat = threading.Thread(target=self._beat, name="training-heartbeat", daemon=True)
        self._heartbeat.start()
        return self

    def report(self, step: str, share: float) -> None:
        """Remember how far the training is; the next heartbeat writes it down."""
        self._step, self._share = step, min(1.0, max(0.0, float(share)))

    def is_cancelled(self) -> bool:
        """Whether somebody asked the training to stop, or it lost its lock to another."""
        return self._cancel.is_set()

    def cancel(self) -> None:
        """Ask from within this process."""
        self._cancel.set()

    def succeed(self, result: Mapping[str, Any]) -> None:
        """Write down the end of a training that published a version.

        Args:
            result: `event_count`, `metrics`, `incumbent_metrics`, `version`, `served`, `model_path`, `message`.

        Raises:
            ResultNotWrittenError: PostgreSQL did not answer for `FINAL_PATIENCE_S`.
        """
        values = self._key | dict(result)
        values |= {name: None if values[name] is None else Jsonb(values[name]) for name in ("metrics", "incumbent_metrics")}
        try:
            self._write_last(lambda connection: _write_success(connection, values, self.run_id))
        except StorageUnavailableError as error:
            raise ResultNotWrittenError(
                f"The training has published version {values['version']}, but the hub's database did not take that down within "
                f"{FINAL_PATIENCE_S:g} s. It is taken up again when the database answers."
            ) from error

    def end(self, status: str, *, code: str, message: str) -> None:
        """Write down that the training `failed`, was `cancelled` or `interrupted`; one that has ended stays as it is.

        An interrupted job is no end: it is started again.
        """
        if status == "interrupted" and not self._is_new:
            return
        values = self._key | {"step": self._step}
        self._write_last(lambda connection: _write_end(connection, values, status, code, message))

    def close(self) -> None:
        """Give the lock back; harmless when closed."""
        self._stop_heartbeat()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        connection = connect(self._dsn, APPLICATION_NAME)
        self._backend_pid = connection.info.backend_pid
        return connection

    def _begin(self, connection: psycopg.Connection[Any], hyper_parameters: Mapping[str, Any]) -> None:
        if not self._lock_patiently(connection, 0.0 if self._is_new else LOCK_PATIENCE_S):
            raise self._refusal(connection)
        if self._is_new:
            connection.execute(INSERT_RUN, self._key | {"hyper_parameters": Jsonb(dict(hyper_parameters)), "attempts": 0})
        row = connection.execute(
            "UPDATE ai_training_log SET status = 'running', started_at = coalesce(started_at, now()), heartbeat_at = now() "  # noqa: S608  # constants
            f"WHERE tenant_id = %(tenant)s AND id = %(id)s AND {IS_OPEN} RETURNING cancel_requested",
            self._key,
        ).fetchone()
        if row is None or row[0]:
            self._cancel.set()
            return
        # Whoever held the lock before and still counts as running has died.
        connection.execute(
            "UPDATE ai_training_log SET status = 'interrupted', ended_at = now(), "
            "message = 'Its process died, and another training took its place.' WHERE tenant_id = %(tenant)s "
            "AND store_id = %(store)s AND model_type = %(model_type)s AND status = 'running' AND id <> %(id)s",
            self._key,
        )

    def _refusal(self, connection: psycopg.Connection[Any]) -> HubError:
        """The error of a lock held by another; a training that waited in vain for it is over."""
        row = connection.execute(
            "SELECT id FROM ai_training_log WHERE tenant_id = %(tenant)s AND store_id = %(store)s "
            "AND model_type = %(model_type)s AND status = 'running' ORDER BY heartbeat_at DESC LIMIT 1",
            self._key,
        ).fetchone()
        error = already_training(self._key["store"], self._key["model_type"], row[0] if row else "another process")
        if row is None or row[0] != self.run_id:
            _write_end(connection, self._key | {"step": ""}, "failed", error.code, error.message)
        return error

    def _lock_patiently(self, connection: psycopg.Connection[Any], patience_s: float) -> bool:
        deadline_s = time.monotonic() + patience_s
        while not self._lock(connection):
            if time.monotonic() > deadline_s or self._stopping.wait(_LOCK_PAUSE_S):
                return False
        return True

    def _lock(self, connection: psycopg.Connection[Any]) -> bool:
        row = connection.execute(_TRY_LOCK, self._key).fetchone()
        return row is not None and bool(row[0])

    def _beat(self) -> None:
        while not self._stopping.wait(self._heartbeat_s):
            try:
                self._beat_once()
            except psycopg.Error as error:
                logger.warning("Training %s could not write its heartbeat: %s", self.run_id, error)
                self._reconnect()

    def _beat_once(self) -> None:
        if self._connection is None:
            return
        with limited(self._connection, STATEMENT_TIMEOUT_S):
            row = self._connection.execute(
                "UPDATE ai_training_log SET heartbeat_at = now(), step = %(step)s, progress = %(share)s "
                "WHERE tenant_id = %(tenant)s AND id = %(id)s RETURNING cancel_requested",
                self._key | {"step": self._step, "share": self._share},
            ).fetchone()
        if row is None or row[0]:
            self._cancel.set()

    def _reconnect(self) -> None:
        lost = self._backend_pid
        if self._connection is not None:
            self._connection.close()
        with suppress(psycopg.Error):
            self._connection = self._connect()
            with limited(self._connection, LOCK_PATIENCE_S + STATEMENT_TIMEOUT_S):
                # The server may not know yet that the connection is lost, and keep the lock for it.
                self._connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND application_name = %s",
                    (lost, APPLICATION_NAME),
                )
                has_lock = self._lock_patiently(self._connection, LOCK_PATIENCE_S)
            if not has_lock and not self._stopping.is_set():
                logger.error("Training %s lost its lock to another training; it stops.", self.run_id)
                self._cancel.set()

    def _stop_heartbeat(self) -> None:
        self._stopping.set()
        if self._heartbeat is not None:
            self._heartbeat.join(timeout=30)
            self._heartbeat = None

    def _write_last(self, write: Callable[[psycopg.Connection[Any]], None]) -> None:
        """Write the last word, on the lock's connection or a new one; again and again while PostgreSQL is away.

        Raises:
            StorageUnavailableError: It was for `FINAL_PATIENCE_S`, or refuses what is written.
        """
        self._stop_heartbeat()
        deadline_s, pause_s = time.monotonic() + FINAL_PATIENCE_S, _FIRST_PAUSE_S
        while True:
            try:
                with translated_errors():
                    if self._connection is None or self._connection.closed or self._connection.broken:
                        self._connection = self._connect()
                    with limited(self._connection, STATEMENT_TIMEOUT_S):
                        write(self._connection)
                return
            except StorageUnavailableError as error:
                is_passing = isinstance(error.__cause__, psycopg.OperationalError | psycopg.InterfaceError)
                if not is_passing or time.monotonic() + pause_s > deadline_s:
                    raise
            logger.warning("The end of training %s could not be written; next try in %g s.", self.run_id, pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def write_failure(dsn: str, *, tenant: str, run_id: str, error: HubError) -> None:
    """Write down the failure of a training that has no process any more.

    Raises:
        StorageUnavailableError: PostgreSQL does not answer.
    """
    with translated_errors(), connect(dsn, APPLICATION_NAME) as connection, limited(connection, STATEMENT_TIMEOUT_S):
        _write_end(connection, {"tenant": tenant, "id": run_id, "step": ""}, "failed", error.code, error.message)


def _write_success(connection: psycopg.Connection[Any], values: Mapping[str, Any], run_id: str) -> None:
    with connection.transaction():
        connection.execute(
            "UPDATE ai_training_log SET status = 'succeeded', step = 'done', progress = 1, ended_at = now(), "
            "heartbeat_at = now(), event_count = %(event_count)s, metrics = %(metrics)s, "
            "incumbent_metrics = %(incumbent_metrics)s, "
            "version = %(version)s, served = %(served)s, model_path = %(model_path)s, message = %(message)s "
            "WHERE tenant_id = %(tenant)s AND id = %(id)s",
            values,
        )
        if values["served"]:
            connection.execute(UPSERT_STATUS, {**values, "training_id": run_id})


def _write_end(connection: psycopg.Connection[Any], values: Mapping[str, Any], status: str, code: str, message: str) -> None:
    connection.execute(
        "UPDATE ai_training_log SET status = %(status)s, step = %(step)s, ended_at = now(), heartbeat_at = now(), "  # noqa: S608  # constants
        f"error = %(error)s, message = %(message)s WHERE tenant_id = %(tenant)s AND id = %(id)s AND {IS_OPEN}",
        {**values, "status": status, "message": message, "error": Jsonb({"code": code, "message": message})},
    )
