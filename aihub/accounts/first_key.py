"""Whether a hub may start without keys: only where nobody but its own machine reaches it. Blocking."""

from aihub.core.errors import ConfigurationError
from aihub.core.postgres_connection import connect, translated_errors
from aihub.core.settings import is_loopback


def has_keys(dsn: str) -> bool:
    """Whether a key was ever made in a database, which need not have its tables yet.

    Raises:
        StorageUnavailableError: PostgreSQL does not answer.
    """
    with translated_errors(), connect(dsn, "aihub-start") as connection:
        row = connection.execute("SELECT to_regclass('first_api_key') IS NOT NULL").fetchone()
        if row is None or not row[0]:
            return False
        return connection.execute("SELECT FROM first_api_key").fetchone() is not None


def require_keys(dsn: str, listen_host: str) -> None:
    """Refuse to open the hub to other machines while everybody could use it.

    Args:
        listen_host: Name or address that the HTTP server listens on.

    Raises:
        ConfigurationError: Other machines reach it, and no key was ever made; the message names the command that makes one.
        StorageUnavailableError: PostgreSQL does not answer.
    """
    if not is_loopback(listen_host) and not has_keys(dsn):
        raise ConfigurationError(
            f"The hub would listen on {listen_host or 'every address'}, where other machines reach it, but has no API key, so "
            "anyone could use it. Make the first: `aihub keys create --name NAME`. Or listen on 127.0.0.1 (http_options.host)."
        )
