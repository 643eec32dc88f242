"""The PostgreSQL connection pool: every connection error becomes `StorageUnavailableError`, too old a server is refused."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import psycopg
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from aihub.core.errors import ConfigurationError, HubError, InternalError, InvalidRequestError, StorageUnavailableError
from aihub.core.health import PartHealth

MIN_POSTGRES_MAJOR = 14
MIN_PGVECTOR = (0, 8, 2)
"""Iterative scans came with 0.8.0; 0.8.2 fixes CVE-2026-3172 (0.6.0 to 0.8.1)."""


def check_server(server_version: int, pgvector: str | None) -> None:
    """Check `server_version_num` and the version of the extension `vector` (None when it cannot be installed).

    Raises:
        ConfigurationError: One of them is missing or too old.
    """
    if server_version // 10_000 < MIN_POSTGRES_MAJOR:
        raise ConfigurationError(
            f"PostgreSQL {server_version // 10_000} is too old; the hub needs {MIN_POSTGRES_MAJOR} or newer."
        )
    floor = ".".join(map(str, MIN_PGVECTOR))
    if pgvector is None:
        raise ConfigurationError(f"PostgreSQL has no pgvector. Install pgvector {floor} or newer on the database server.")
    numbers = tuple(int(part) for part in pgvector.split(".") if part.isdigit())
    if numbers < MIN_PGVECTOR:
        raise ConfigurationError(
            f"pgvector {pgvector} is too old; the hub needs {floor} or newer. Update it on the database server, then run "
            "`ALTER EXTENSION vector UPDATE` as its owner."
        )


logger = logging.getLogger(__name__)

Connection = AsyncConnection[TupleRow]

_PATIENCE_AFTER_TIMEOUT_S = 0.5
"""How long the server may take to cancel an overdue statement before the connection is cut from this side."""


class Database:
    """A pool of connections that survives restarts of PostgreSQL.

    Args:
        dsn: libpq URL or key-value string.
        pool_size: Most connections held.
        timeout_s: Longest wait for a connection, and longest time it is used unless a transaction asks for more.
    """

    def __init__(self, dsn: str, *, pool_size: int = 8, timeout_s: float = 2.0) -> None:
        self._dsn = dsn
        self._pool_size = pool_size
        self._timeout_s = timeout_s
        self._pool: AsyncConnectionPool[Connection] | None = None
        self._is_awaited = False

    async def open(self) -> None:
        """Connect and check the server.

        Raises:
            ConfigurationError: PostgreSQL is older than 14, pgvector is missing or older than 0.8.2, or the tables are missing.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        with _translated_errors():
            conninfo = self._conninfo()
            async with await AsyncConnection.connect(conninfo, autocommit=True) as connection:
                await _check_database(connection)
            self._pool = AsyncConnectionPool(
                conninfo,
                connection_class=AsyncConnection[TupleRow],
                kwargs={"autocommit": True},
                min_size=1,
                max_size=self._pool_size,
                open=False,
                configure=self._configure,
                check=self._probe,
                timeout=self._timeout_s,
                # The pool doubles its pause with every failure; starting over often makes recovery quick.
                reconnect_timeout=3.0,
            )
            await self._pool.open(wait=True, timeout=max(5.0, self._timeout_s))

    async def open_patiently(self, pause_s: float) -> None:
        """Try to open until it works; what is asked meanwhile is refused as while PostgreSQL is away.

        Args:
            pause_s: Between two tries.
        """
        self._is_awaited = True
        while True:
            try:
                await self.open()
                return
            except HubError as error:
                logger.warning("%s Next try in %g s.", error.message, pause_s)
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Close all connections; harmless when not open."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection in autocommit mode.

        Raises:
            StorageUnavailableError: PostgreSQL is down, does not answer in time or has no connection left.
            InvalidRequestError: A value cannot be stored.
        """
        with _translated_errors():
            async with self._borrow() as connection, _deadline(connection, self._timeout_s):
                yield connection

    @asynccontextmanager
    async def transaction(self, *, timeout_s: float | None = None, snapshot: bool = False) -> AsyncIterator[Connection]:
        """One transaction: committed on leaving, rolled back on any exception.

        Args:
            timeout_s: Longest time the whole transaction may take; the pool's when None.
            snapshot: Every statement sees the same state (repeatable read).

        Raises:
            StorageUnavailableError: PostgreSQL is down, does not answer in time or has no connection left.
            InvalidRequestError: A value cannot be stored.
        """
        limit_s = timeout_s or self._timeout_s
        with _translated_errors():
            async with self._borrow() as connection, _deadline(connection, limit_s), connection.transaction():
                if snapshot:
                    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                if timeout_s is not None:
                    await connection.execute("SELECT set_config('statement_timeout', %s, true)", (str(round(timeout_s * 1000)),))
                yield connection

    async def check(self) -> PartHealth:
        """`ok`, or `down` with the reason. Never raises."""
        try:
            async with self.connection() as connection:
                await connection.execute("SELECT 1")
        except StorageUnavailableError as error:
            return PartHealth("down", str(error.__cause__ or error.message))
        return PartHealth("ok")

    @asynccontextmanager
    async def _borrow(self) -> AsyncIterator[Connection]:
        if self._pool is None:
            if self._is_awaited:
                raise StorageUnavailableError("The database does not answer. Try again in a few seconds.")
            raise InternalError("The database is not open.")
        async with self._pool.connection() as connection:
            yield connection

    def _conninfo(self) -> str:
        try:
            return make_conninfo(
                self._dsn,
                connect_timeout=max(2, round(self._timeout_s)),
                application_name="aihub",
                client_encoding="utf8",
            )
        except psycopg.ProgrammingError as error:
            raise ConfigurationError("DATABASE_URL is no PostgreSQL URL; write postgresql://user:password@host/name.") from error

    async def _configure(self, connection: Connection) -> None:
        async with _deadline(connection, self._timeout_s):
            await register_vector_async(connection)
            await connection.execute("SELECT set_config('statement_timeout', %s, false)", (str(round(self._timeout_s * 1000)),))

    async def _probe(self, connection: Connection) -> None:
        """Notice a connection that died in the pool; a request would fail on it otherwise."""
        async with _deadline(connection, self._timeout_s / 2):
            await connection.execute("")


async def _check_database(connection: Connection) -> None:
    cursor = await connection.execute(
        "SELECT (SELECT extversion FROM pg_extension WHERE extname = 'vector'), to_regclass('lexical_segments') IS NOT NULL"
    )
    pgvector, has_tables = await cursor.fetchone() or (None, False)
    if not has_tables:
        raise ConfigurationError("The database lacks tables. Run `aihub db upgrade`.")
    check_server(connection.info.server_version, pgvector)


@asynccontextmanager
async def _deadline(connection: Connection, seconds: float) -> AsyncIterator[None]:
    """Cut the connection when its use takes longer; a frozen server never answers a cancel request."""
    timer = asyncio.get_running_loop().call_later(seconds + _PATIENCE_AFTER_TIMEOUT_S, _cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as handle:
        handle.shutdown(socket.SHUT_RDWR)


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        logger.warning("PostgreSQL: %s: %s", type(error).__name__, error)
        raise StorageUnavailableError("The database does not answer. Try again in a few seconds.") from error
    except psycopg.DataError as error:
        raise InvalidRequestError(f"A value cannot be stored: {error.diag.message_primary or error}") from error
    except UnicodeEncodeError as error:
        raise InvalidRequestError("A value cannot be stored: it holds a lone surrogate, which is no character.") from error
    except psycopg.errors.UndefinedTable as error:
        raise ConfigurationError("The database lacks tables. Run `aihub db upgrade`.") from error
    except psycopg.Error as error:
        logger.exception("PostgreSQL refused a statement")
        raise InternalError("The database refused a statement.") from error
