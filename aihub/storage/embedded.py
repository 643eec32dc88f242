"""PostgreSQL and Redis servers inside the state folder, for a hub without configured ones."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StoreUrls:
    """Where the stores answer; the URLs carry passwords. None for a server that was not asked for."""

    database_url: str | None
    redis_url: str | None


class EmbeddedStores:
    """A PostgreSQL and a Redis server that live as long as this process.

    Args:
        home: State folder; data lies under `home/postgres` and `home/redis`.
        postgres: Start PostgreSQL.
        redis: Start Redis.
    """

    def __init__(self, home: Path, *, postgres: bool = True, redis: bool = True) -> None:
        raise NotImplementedError

    def start(self, timeout_s: float = 60.0) -> StoreUrls:
        """Start both servers and wait until they accept connections. Blocking.

        Raises:
            ConfigurationError: They run already on this folder, a binary is missing, the disk is full, the folder is not
                usable, or a server ended at once; the message says which and what to do.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Stop both cleanly and wait for it; harmless when not started. Blocking."""
        raise NotImplementedError

    def is_running(self) -> bool:
        """False once the supervising process has ended."""
        raise NotImplementedError
