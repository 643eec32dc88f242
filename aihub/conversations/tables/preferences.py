"""Table `preferences`: one row per account."""

from psycopg.rows import class_row

from aihub.conversations.tables.owners import hold_owner
from aihub.conversations.tables.records import PreferencesRecord
from aihub.core.postgres import Connection
from aihub.core.principal import Principal


async def read_preferences(connection: Connection, principal: Principal) -> PreferencesRecord:
    """Return what the caller prefers; nothing but None where it never said."""
    async with connection.cursor(row_factory=class_row(PreferencesRecord)) as cursor:
        await cursor.execute(
            "SELECT favourite_model, language, style FROM preferences WHERE tenant_id = %s AND owner_id = %s",
            (principal.tenant_id, principal.owner_id),
        )
        return await cursor.fetchone() or PreferencesRecord()


async def write_preferences(connection: Connection, principal: Principal, changes: dict[str, str | None]) -> PreferencesRecord:
    """Change the given fields and return all; None clears one. Call it inside a transaction.

    Args:
        changes: By the names of `PreferencesRecord`.

    Raises:
        AuthenticationError: The caller's key was deleted, as with its user.
    """
    await hold_owner(connection, principal)
    names = ("favourite_model", "language", "style")
    values = {name: changes.get(name) for name in names} | {f"has_{name}": name in changes for name in names}
    async with connection.cursor(row_factory=class_row(PreferencesRecord)) as cursor:
        await cursor.execute(
            """
            INSERT INTO preferences AS row (tenant_id, owner_id, favourite_model, language, style)
            VALUES (%(tenant)s, %(owner)s, %(favourite_model)s, %(language)s, %(style)s)
            ON CONFLICT (tenant_id, owner_id) DO UPDATE SET
                favourite_model = CASE WHEN %(has_favourite_model)s THEN %(favourite_model)s ELSE row.favourite_model END,
                language = CASE WHEN %(has_language)s THEN %(language)s ELSE row.language END,
                style = CASE WHEN %(has_style)s THEN %(style)s ELSE row.style END,
                updated_at = now()
            RETURNING favourite_model, language, style
            """,
            values | {"tenant": principal.tenant_id, "owner": principal.owner_id},
        )
        stored = await cursor.fetchone()
    assert stored is not None  # noqa: S101  # RETURNING gives the row that was written
    return stored
