"""What recognising a key needs of the tables: the keys themselves, whether any was ever made, and when each was last used."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from psycopg.rows import dict_row

from aihub.core.postgres import Database
from aihub.core.principal import KeyLimits, Principal

_SELECT = """
SELECT k.prefix, k.sha256, k.id AS key_id, k.tenant_id, k.user_id, k.routes, k.models, k.vector_stores,
    CASE WHEN k.role = 'admin' AND u.role = 'admin' THEN 'admin' ELSE 'user' END AS role,
    k.requests_per_minute, k.tokens_per_minute, k.streams, k.tokens_per_day,
    k.revoked_at IS NOT NULL AS is_revoked, u.disabled_at IS NOT NULL AS is_disabled,
    extract(epoch FROM k.expires_at - now())::float8 AS expires_in_s
FROM api_keys k JOIN users u ON u.tenant_id = k.tenant_id AND u.id = k.user_id
WHERE k.prefix = ANY(%s)
"""

_NOTE_USE = """
UPDATE api_keys SET last_used_at = now()
WHERE id = ANY(%s) AND (last_used_at IS NULL OR last_used_at < now() - make_interval(secs => %s))
"""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One key as the tables have it.

    Attributes:
        sha256: Of the whole key.
        principal: Who sends it.
        expires_in_s: Counted from the reading; negative when it has expired, None when it never does.
    """

    sha256: bytes = field(repr=False)
    principal: Principal
    is_revoked: bool = False
    is_disabled: bool = False
    expires_in_s: float | None = None


class RecognitionTable:
    """Reads for every key at once, so that many callers need one connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, prefixes: Collection[str]) -> dict[str, KnownKey]:
        """Return the keys with these prefixes, by prefix.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer.
        """
        async with self._database.connection() as connection, connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_SELECT, (list(prefixes),))
            return {row["prefix"]: _known_key(row) for row in await cursor.fetchall()}

    async def is_any_made(self) -> bool:
        """Whether a key was ever made, also one that was deleted since.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer.
        """
        async with self._database.connection() as connection:
            cursor = await connection.execute("SELECT EXISTS (SELECT FROM first_api_key)")
            row = await cursor.fetchone()
            return bool(row and row[0])

    async def note_uses(self, key_ids: Collection[str], *, pause_s: float) -> None:
        """Write down that keys were used just now, unless that was written less than `pause_s` ago.

        Raises:
            StorageUnavailableError: PostgreSQL does not answer.
        """
        async with self._database.connection() as connection:
            await connection.execute(_NOTE_USE, (list(key_ids), pause_s))


def _known_key(told: dict[str, Any]) -> KnownKey:
    principal = Principal(
        tenant_id=told["tenant_id"],
        role=told["role"],
        user_id=told["user_id"],
        key_id=told["key_id"],
        routes=_names(told["routes"]),
        models=_names(told["models"]),
        vector_stores=_names(told["vector_stores"]),
        limits=KeyLimits(told["requests_per_minute"], told["tokens_per_minute"], told["streams"], told["tokens_per_day"]),
    )
    return KnownKey(told["sha256"], principal, told["is_revoked"], told["is_disabled"], told["expires_in_s"])


def _names(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)
