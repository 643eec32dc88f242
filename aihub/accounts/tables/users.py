"""The table `users`: people and service accounts."""

import secrets

from psycopg.rows import class_row

from aihub.accounts.tables.records import DeletedUser, UserRecord
from aihub.core.errors import ConflictError, NotFoundError
from aihub.core.postgres import Connection, Database
from aihub.core.principal import Role

_SELECT = """
SELECT u.tenant_id, u.id, u.name, u.role, u.is_service,
    floor(extract(epoch FROM u.created_at))::bigint AS created_at,
    floor(extract(epoch FROM u.disabled_at))::bigint AS disabled_at,
    (SELECT count(*) FROM api_keys k WHERE k.tenant_id = u.tenant_id AND k.user_id = u.id AND k.revoked_at IS NULL
        AND (k.expires_at IS NULL OR k.expires_at > now()) AND u.disabled_at IS NULL) AS keys
FROM users u
"""


DELETE_TIMEOUT_S = 600.0
"""For a user with very many messages."""


class UserTable:
    """Users by tenant and name; all raise `StorageUnavailableError` while PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, tenant_id: str, name: str, role: Role, *, is_service: bool) -> UserRecord:
        """Add a user.

        Raises:
            NotFoundError: There is no such tenant.
            ConflictError: The tenant has a user of this name.
        """
        async with self._database.transaction() as connection:
            if not await insert_user(connection, tenant_id, name, role, is_service=is_service):
                raise ConflictError(f"The tenant {tenant_id!r} has a user {name!r} already.", code="user_exists")
            return await _get(connection, tenant_id, name)

    async def get(self, tenant_id: str, name: str) -> UserRecord:
        """Return a user.

        Raises:
            NotFoundError: There is none of this name in the tenant.
        """
        async with self._database.connection() as connection:
            return await _get(connection, tenant_id, name)

    async def list(self, tenant_id: str | None) -> list[UserRecord]:
        """Return the users of a tenant, or of all, by tenant and name.

        Raises:
            NotFoundError: There is no such tenant.
        """
        async with self._database.transaction() as connection, connection.cursor(row_factory=class_row(UserRecord)) as cursor:
            if tenant_id is not None:
                await require_tenant(connection, tenant_id)
            await cursor.execute(
                _SELECT + " WHERE %(tenant)s::text IS NULL OR u.tenant_id = %(tenant)s ORDER BY u.tenant_id, u.name",
                {"tenant": tenant_id},
            )
            return await cursor.fetchall()

    async def set_disabled(self, tenant_id: str, name: str, *, is_disabled: bool) -> UserRecord:
        """Disable a user, whose keys then count no more, or enable one again; harmless when it is so already.

        Raises:
            NotFoundError: There is none of this name in the tenant.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                "UPDATE users SET disabled_at = CASE WHEN %s THEN coalesce(disabled_at, now()) END "
                "WHERE tenant_id = %s AND name = %s",
                (is_disabled, tenant_id, name),
            )
            return await _get(connection, tenant_id, name)

    async def delete(self, tenant_id: str, name: str) -> DeletedUser:
        """Delete a user with all keys, conversations and preferences, at once.

        Raises:
            NotFoundError: There is none of this name in the tenant.
        """
        async with self._database.transaction(timeout_s=DELETE_TIMEOUT_S) as connection:
            cursor = await connection.execute(
                "SELECT id FROM users WHERE tenant_id = %s AND name = %s FOR UPDATE", (tenant_id, name)
            )
            row: tuple[str] | None = await cursor.fetchone()
            if row is None:
                raise no_user(tenant_id, name)
            user = (tenant_id, row[0])
            # The keys before the rest: who stores something holds one, so that nothing comes behind what is deleted here.
            keys = await connection.execute("DELETE FROM api_keys WHERE tenant_id = %s AND user_id = %s", user)
            conversations = await connection.execute("DELETE FROM conversations WHERE tenant_id = %s AND owner_id = %s", user)
            await connection.execute("DELETE FROM preferences WHERE tenant_id = %s AND owner_id = %s", user)
            await connection.execute("DELETE FROM users WHERE tenant_id = %s AND id = %s", user)
            return DeletedUser(*user, keys.rowcount, conversations.rowcount)


async def insert_user(connection: Connection, tenant_id: str, name: str, role: Role, *, is_service: bool) -> bool:
    """Add a user within a transaction; False where the tenant has one of this name.

    Raises:
        NotFoundError: There is no such tenant.
    """
    await require_tenant(connection, tenant_id)
    cursor = await connection.execute(
        "INSERT INTO users (tenant_id, id, name, role, is_service) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (tenant_id, f"user_{secrets.token_hex(12)}", name, role, is_service),
    )
    return cursor.rowcount == 1


async def require_tenant(connection: Connection, tenant_id: str) -> None:
    """Raises: NotFoundError: There is no such tenant."""
    cursor = await connection.execute("SELECT FROM tenants WHERE id = %s FOR KEY SHARE", (tenant_id,))
    if await cursor.fetchone() is None:
        raise NotFoundError(
            f"There is no tenant {tenant_id!r}. Make it: aihub tenants create {tenant_id}",
            param="tenant",
            code="tenant_not_found",
        )


def no_user(tenant_id: str, name: str) -> NotFoundError:
    """Return what a tenant without a user of this name is answered with."""
    return NotFoundError(
        f"The tenant {tenant_id!r} has no user {name!r}. `aihub users list` shows all, `aihub users create` makes one.",
        param="user",
        code="user_not_found",
    )


async def _get(connection: Connection, tenant_id: str, name: str) -> UserRecord:
    async with connection.cursor(row_factory=class_row(UserRecord)) as cursor:
        await cursor.execute(_SELECT + " WHERE u.tenant_id = %s AND u.name = %s", (tenant_id, name))
        record = await cursor.fetchone()
    if record is None:
        raise no_user(tenant_id, name)
    return record
