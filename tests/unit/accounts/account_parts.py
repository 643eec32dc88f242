"""Keys in the tables, for tests of accounts."""

from typing import Any

from psycopg.sql import SQL, Identifier

from aihub.accounts.api_keys import ApiKey
from aihub.core.postgres import Database


async def insert_key(database: Database, tenant: str, *, expires_in_s: float | None = None, **columns: Any) -> ApiKey:
    """A key of a user of its own, an administrator, in the tables."""
    key = ApiKey.generate()
    user_id = f"user_{key.prefix}"
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO tenants VALUES (%s, 'test') ON CONFLICT DO NOTHING", (tenant,))
        await connection.execute(
            "INSERT INTO users (tenant_id, id, name, role) VALUES (%s, %s, %s, 'admin')", (tenant, user_id, user_id)
        )
        await connection.execute(
            "INSERT INTO api_keys (tenant_id, user_id, prefix, sha256, name, role, expires_at) "
            "VALUES (%s, %s, %s, %s, 'test', 'admin', now() + make_interval(secs => %s))",
            (tenant, user_id, key.prefix, key.digest(), expires_in_s),
        )
        await connection.execute("INSERT INTO first_api_key DEFAULT VALUES ON CONFLICT DO NOTHING")
        for column, value in columns.items():
            await connection.execute(
                SQL("UPDATE api_keys SET {} = %s WHERE prefix = %s").format(Identifier(column)), (value, key.prefix)
            )
    return key
