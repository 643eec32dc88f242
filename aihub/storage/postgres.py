"""The PostgreSQL connection pool: every connection error becomes `StorageUnavailableError`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from aihub.engines.base import PartHealth


class Database:
    """A pool of connections that survives restarts of PostgreSQL.

    Args:
        dsn: libpq URL or key-value string.
        pool_size: Most connections held.
        timeout_s: Longest wait for a connection, and for one statement unless a transaction asks for more.
    """

    def __init__(self, dsn: str, *, pool_size: int = 8, timeout_s: float = 2.0) -> None:
        raise NotImplementedError

    async def open(self) -> None:
        """Connect and check the server.

        Raises:
            ConfigurationError: PostgreSQL is older than 14, pgvector is missing or older than 0.8.2, or the tables are missing.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """One connection in autocommit mode."""
        raise NotImplementedError
        yield

    @asynccontextmanager
    async def transaction(
        self, *, timeout_s: float | None = None, snapshot: bool = False
    ) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """One transaction: committed on leaving, rolled back on any exception.

        Args:
            timeout_s: Longest single statement; the pool's when None.
            snapshot: Every statement sees the same state (repeatable read).
        """
        raise NotImplementedError
        yield

    async def check(self) -> PartHealth:
        """`ok`, or `down` with the reason. Never raises."""
        raise NotImplementedError
