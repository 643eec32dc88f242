"""A connection that holds one advisory lock as long as it lives: the server frees the lock when this process dies. Blocking."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from aihub.core.postgres_connection import STATEMENT_TIMEOUT_S, connect, limited

Result = TypeVar("Result")

APPLICATION_NAME = "aihub-finetuning"
_LOCK_PAUSE_S = 0.5


class LockedConnection:
    """Used by one thread at a time.

    Args:
        lock: The lock's name.
    """

    def __init__(self, dsn: str, lock: str) -> None:
        self._dsn = dsn
        self._lock = lock
        self._connection: psycopg.Connection[Any] | None = None
        self._backend_pid = 0

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not (self._connection.closed or self._connection.broken)

    def open(self, patience_s: float) -> bool:
        """Connect, again where the connection was lost, and take the lock; False when another has it for `patience_s`.

        Raises:
            psycopg.Error: PostgreSQL does not answer.
        """
        self.close()
        connection = connect(self._dsn, APPLICATION_NAME)
        try:
            with limited(connection, patience_s + STATEMENT_TIMEOUT_S):
                # The server may not know yet that the former connection is lost, and keep the lock for it.
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND application_name = %s",
                    (self._backend_pid, APPLICATION_NAME),
                )
                if not self._take_lock(connection, time.monotonic() + patience_s):
                    connection.close()
                    return False
        except BaseException:
            connection.close()
            raise
        self._connection, self._backend_pid = connection, connection.info.backend_pid
        return True

    def run(self, work: Callable[[psycopg.Connection[Any]], Result]) -> Result:
        """Do something on the connection, in one transaction.

        Raises:
            psycopg.Error: PostgreSQL does not answer, or refuses.
        """
        if self._connection is None:
            raise psycopg.OperationalError("the connection is closed")
        with limited(self._connection, STATEMENT_TIMEOUT_S), self._connection.transaction():
            return work(self._connection)

    def close(self) -> None:
        """Give the lock back; harmless when closed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def _take_lock(self, connection: psycopg.Connection[Any], deadline_s: float) -> bool:
        while True:
            row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (self._lock,)).fetchone()
            if row is not None and row[0]:
                return True
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_LOCK_PAUSE_S)


def job_lock(tenant: str, job_id: str) -> str:
    """Name of the lock that a job's driver holds."""
    return f"aihub-finetune:{tenant}:{job_id}"


def worker_lock(tenant: str, job_id: str) -> str:
    """Name of the lock that a job's first worker holds: of two, one left over, only one writes checkpoints."""
    return f"aihub-finetune-worker:{tenant}:{job_id}"


LOCK_NUMBER = "hashtextextended(concat_ws(':', 'aihub-finetune', tenant_id, id), 0)"
"""The number of `job_lock` in a query on `finetuning_jobs`."""

IS_WORKED_ON = f"""EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND classid = (({LOCK_NUMBER} >> 32) & 4294967295)::oid AND objid = ({LOCK_NUMBER} & 4294967295)::oid
)"""  # noqa: S608 - constants
"""Whether a process holds the lock of a row's job. Looks without taking it."""
