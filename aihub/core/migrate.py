"""Bring a database to the schema this version knows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from aihub.core.errors import ConfigurationError, HubError, StorageUnavailableError
from aihub.core.postgres import check_server
from aihub.core.settings import Settings

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK_KEY = 0x61696875625F6462
"""Advisory lock of all migrations: the letters `aihub_db`."""

_alembic_is_not_thread_safe = threading.Lock()


def upgrade(dsn: str, revision: str = "head") -> str:
    """Run all missing migrations, as `alembic upgrade head` does, and return the revision reached.

    Safe when several processes call it at once: the later ones wait and find nothing left to do. Blocking: call it before
    the event loop or in a thread.

    Raises:
        ConfigurationError: The schema is newer than this version knows, or pgvector is missing, too old or forbidden.
        StorageUnavailableError: PostgreSQL does not answer.
    """
    with _alembic_is_not_thread_safe, connect(dsn) as connection:
        config = _config()
        config.attributes["connection"] = connection
        refuse_newer(connection)
        command.upgrade(config, revision)
        return current_revision(connection) or "none"


def current(dsn: str) -> tuple[str | None, str]:
    """Return the revision of the database (None before the first) and the one this version knows.

    Raises:
        StorageUnavailableError: PostgreSQL does not answer.
    """
    with connect(dsn) as connection:
        return current_revision(connection), known_revisions()[0]


@contextmanager
def connect(dsn: str) -> Iterator[Connection]:
    """Open one SQLAlchemy connection; database errors inside become `HubError`s.

    Raises:
        ConfigurationError: The server is too old or forbids what a migration needs.
        StorageUnavailableError: PostgreSQL does not answer.
    """
    try:
        engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(dsn, connect_timeout=5, application_name="aihub-migrate"),
            poolclass=NullPool,
        )
        with engine.connect() as connection:
            server = connection.exec_driver_sql(
                "SELECT current_setting('server_version_num')::int, "
                "coalesce((SELECT extversion FROM pg_extension WHERE extname = 'vector'), "
                "(SELECT default_version FROM pg_available_extensions WHERE name = 'vector'))"
            ).one()
            check_server(*server)
            connection.rollback()
            yield connection
    except HubError:
        raise
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = " ".join(str(cause).split())
        if isinstance(cause, psycopg.OperationalError):
            raise StorageUnavailableError(f"PostgreSQL does not answer: {reason}") from error
        raise ConfigurationError(f"The database cannot be migrated: {reason}") from error


@contextmanager
def migration_lock(connection: Connection) -> Iterator[None]:
    """Hold the one lock of all migrations of a database; waits for another process that migrates."""
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
    connection.commit()
    try:
        refuse_newer(connection)
        yield
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK_KEY})
        connection.commit()


@contextmanager
def command_line_connection() -> Iterator[Connection]:
    """The connection of the `alembic` command: DATABASE_URL, else the embedded server, started for as long as needed."""
    from aihub.core.embedded.stores import database_for

    with database_for(Settings()) as dsn, connect(dsn) as connection:
        yield connection


def current_revision(connection: Connection) -> str | None:
    """Return the database's revision; None when it was never migrated."""
    revision = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    return revision


def known_revisions() -> list[str]:
    """Return all revisions of this version, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def refuse_newer(connection: Connection) -> None:
    """Raises: ConfigurationError: The database was migrated by a newer version of the hub."""
    revision = current_revision(connection)
    if revision is not None and revision not in known_revisions():
        raise ConfigurationError(
            f"The database has schema {revision}, newer than this version knows ({known_revisions()[0]}). Update the hub."
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    return config
