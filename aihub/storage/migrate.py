"""Bring a database to the schema this version knows."""


def upgrade(dsn: str) -> str:
    """Run all missing migrations, as `alembic upgrade head` does, and return the revision reached.

    Safe when several processes call it at once. Blocking: call it before the event loop or in a thread.

    Raises:
        ConfigurationError: The schema is newer than this version knows, or pgvector cannot be installed.
        StorageUnavailableError: PostgreSQL does not answer.
    """
    raise NotImplementedError
