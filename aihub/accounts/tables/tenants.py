"""The table `tenants`."""

from psycopg.rows import class_row

from aihub.accounts.tables.records import TenantRecord
from aihub.core.errors import ConflictError
from aihub.core.postgres import Database

_COLUMNS = "id, name, floor(extract(epoch FROM created_at))::bigint AS created_at"


class TenantTable:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant_id: str, name: str) -> TenantRecord:
        """Add a tenant.

        Raises:
            ConflictError: There is one with this id.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        async with self._database.connection() as connection, connection.cursor(row_factory=class_row(TenantRecord)) as cursor:
            await cursor.execute(
                f"INSERT INTO tenants (id, name) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}",  # noqa: S608  # a constant
                (tenant_id, name),
            )
            record = await cursor.fetchone()
        if record is None:
            raise ConflictError(f"There is a tenant {tenant_id!r} already.", code="tenant_exists")
        return record

    async def list(self) -> list[TenantRecord]:
        """Return all tenants by id."""
        async with self._database.connection() as connection, connection.cursor(row_factory=class_row(TenantRecord)) as cursor:
            await cursor.execute(f"SELECT {_COLUMNS} FROM tenants ORDER BY id")  # noqa: S608  # a constant
            return await cursor.fetchall()
