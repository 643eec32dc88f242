"""One connection to PostgreSQL for blocking code. Nothing can hold it for ever: not a network that swallows packets, not a server
that is frozen.
"""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from aihub.core.errors import StorageUnavailableError

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 15.0
_PATIENCE_S = 5.0
"""How long the server may take to cancel an overdue statement before the connection is cut from this side."""

KEEPALIVES: dict[str, Any] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""libpq parameters: a peer that is gone is noticed within about a minute, without anything being sent."""


def connect(dsn: str, application_name: str) -> psycopg.Connection[Any]:
    """Open a connection in autocommit mode whose statements the server ends after `STATEMENT_TIMEOUT_S`.

    Raises:
        psycopg.Error: PostgreSQL does not answer in time, or refuses.
    """
    connection = psycopg.connect(
        dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S, application_name=application_name, **KEEPALIVES
    )
    try:
        with limited(connection, STATEMENT_TIMEOUT_S):
            milliseconds = str(round(STATEMENT_TIMEOUT_S * 1000))
            connection.execute("SELECT set_config('statement_timeout', %s, false)", (milliseconds,))
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def limited(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Cut the connection when its use takes longer, some patience added: a frozen server never ends a statement itself.

    Raises:
        psycopg.OperationalError: In whatever waits for the server then.
    """
    timer = threading.Timer(seconds + _PATIENCE_S, _cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: psycopg.Connection[Any]) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as handle:
        handle.shutdown(socket.SHUT_RDWR)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn what PostgreSQL raises into `StorageUnavailableError`, which has it as its cause."""
    try:
        yield
    except psycopg.errors.UndefinedTable as error:
        raise StorageUnavailableError("The hub's database lacks tables. Run `aihub db upgrade`.") from error
    except psycopg.Error as error:
        logger.warning("PostgreSQL: %s: %s", type(error).__name__, error)
        raise StorageUnavailableError("The hub's database does not answer. Try again in a few seconds.") from error
