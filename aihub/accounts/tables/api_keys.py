"""The table `api_keys`, for those who make, show and revoke keys."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.requests import KeyRequest
from aihub.accounts.tables.records import ApiKeyRecord
from aihub.accounts.tables.users import insert_user, no_user, require_tenant
from aihub.core.errors import InvalidRequestError, NotFoundError
from aihub.core.postgres import Connection, Database
from aihub.core.principal import DEFAULT_TENANT, Role

FIRST_ADMINISTRATOR = "admin"

_SELECT = """
SELECT k.tenant_id, k.id, k.name, k.user_id, u.name AS user, u.is_service,
    CASE WHEN k.role = 'admin' AND u.role = 'admin' THEN 'admin' ELSE 'user' END AS role,
    CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked' WHEN k.expires_at <= now() THEN 'expired'
        WHEN u.disabled_at IS NOT NULL THEN 'disabled' ELSE 'active' END AS state,
    k.routes, k.models, k.vector_stores, k.requests_per_minute, k.tokens_per_minute, k.streams, k.tokens_per_day,
    floor(extract(epoch FROM k.created_at))::bigint AS created_at,
    floor(extract(epoch FROM k.expires_at))::bigint AS expires_at,
    floor(extract(epoch FROM k.revoked_at))::bigint AS revoked_at,
    floor(extract(epoch FROM k.last_used_at))::bigint AS last_used_at
FROM api_keys k JOIN users u ON u.tenant_id = k.tenant_id AND u.id = k.user_id
"""

_INSERT = """
INSERT INTO api_keys (tenant_id, user_id, prefix, sha256, name, role, routes, models, vector_stores,
    requests_per_minute, tokens_per_minute, streams, tokens_per_day, expires_at)
VALUES (%(tenant)s, %(user_id)s, %(prefix)s, %(sha256)s, %(name)s, %(role)s, %(routes)s, %(models)s, %(vector_stores)s,
    %(requests_per_minute)s, %(tokens_per_minute)s, %(streams)s, %(tokens_per_day)s, %(expires_at)s)
"""


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key; `is_first` where the hub had none ever before, so that it was open."""

    key: ApiKey
    record: ApiKeyRecord
    is_first: bool


class ApiKeyTable:
    """Keys of all tenants; all raise `StorageUnavailableError` while PostgreSQL does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, request: KeyRequest) -> CreatedKey:
        """Make a key. Its text is nowhere else: whoever loses it needs another.

        Raises:
            NotFoundError: There is no such tenant or user.
            InvalidRequestError: The user is disabled or has a lower role; or no user is named outside the default tenant.
        """
        key = ApiKey.generate()
        async with self._database.transaction() as connection:
            user_id, role = await _find_user(connection, request)
            values = request.model_dump() | {"user_id": user_id, "prefix": key.prefix, "sha256": key.digest(), "role": role}
            await connection.execute(_INSERT, values)
            first = await connection.execute("INSERT INTO first_api_key DEFAULT VALUES ON CONFLICT DO NOTHING")
            return CreatedKey(key, await _get(connection, key.key_id), is_first=first.rowcount == 1)

    async def list(self, tenant_id: str | None) -> list[ApiKeyRecord]:
        """Return the keys of a tenant, or of all, oldest first.

        Raises:
            NotFoundError: There is no such tenant.
        """
        async with self._database.transaction() as connection, connection.cursor(row_factory=class_row(ApiKeyRecord)) as cursor:
            if tenant_id is not None:
                await require_tenant(connection, tenant_id)
            await cursor.execute(
                _SELECT + " WHERE %(tenant)s::text IS NULL OR k.tenant_id = %(tenant)s ORDER BY k.tenant_id, k.created_at, k.id",
                {"tenant": tenant_id},
            )
            return await cursor.fetchall()

    async def get(self, key_id: str) -> ApiKeyRecord:
        """Return a key.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.connection() as connection:
            return await _get(connection, key_id)

    async def revoke(self, key_id: str) -> ApiKeyRecord:
        """Make a key count no more, for good; harmless when it does not already.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.transaction() as connection:
            await connection.execute("UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = %s", (key_id,))
            return await _get(connection, key_id)


async def _find_user(connection: Connection, request: KeyRequest) -> tuple[str, Role]:
    """Return the id of a new key's user, and the key's role."""
    await require_tenant(connection, request.tenant)
    name = request.user
    if name is None:
        if request.tenant != DEFAULT_TENANT:
            raise InvalidRequestError(
                f"Name the user of the key with --user; `aihub users create NAME --tenant {request.tenant}` makes one.",
                param="user",
            )
        name = FIRST_ADMINISTRATOR
        await insert_user(connection, request.tenant, name, "admin", is_service=False)
    cursor = await connection.execute(
        "SELECT id, role, disabled_at FROM users WHERE tenant_id = %s AND name = %s FOR SHARE", (request.tenant, name)
    )
    row: tuple[str, Role, datetime | None] | None = await cursor.fetchone()
    if row is None:
        raise no_user(request.tenant, name)
    user_id, role, disabled_at = row
    if disabled_at is not None:
        raise InvalidRequestError(f"The user {name!r} is disabled. First: aihub users enable {name}", param="user")
    if request.role == "admin" and role != "admin":
        raise InvalidRequestError(f"The user {name!r} is no administrator, so the key cannot be one's.", param="role")
    return user_id, request.role or role


async def _get(connection: Connection, key_id: str) -> ApiKeyRecord:
    async with connection.cursor(row_factory=class_row(ApiKeyRecord)) as cursor:
        await cursor.execute(_SELECT + " WHERE k.id = %s", (key_id,))
        record = await cursor.fetchone()
    if record is None:
        raise NotFoundError("There is no such key. `aihub keys list` shows all.", param="key", code="key_not_found")
    return record
