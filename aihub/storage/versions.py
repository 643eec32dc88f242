"""The oldest servers the hub works with."""

from aihub.errors import ConfigurationError

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
