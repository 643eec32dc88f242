"""Entry point of Alembic: runs all missing revisions on one connection, under a lock of the whole database."""

from alembic import context
from sqlalchemy import Connection

from aihub.core.migrate import command_line_connection, migration_lock


def run(connection: Connection) -> None:
    """Upgrade over `connection`, each revision in a transaction of its own."""
    with migration_lock(connection):
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with command_line_connection() as connection:
        run(connection)
