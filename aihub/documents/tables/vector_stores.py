"""Vector stores."""

from collections.abc import Collection, Sequence
from typing import Any, LiteralString

from psycopg import AsyncCursor
from psycopg.rows import RowMaker, class_row, dict_row
from psycopg.types.json import Jsonb

from aihub.core.errors import NotFoundError
from aihub.core.postgres import Connection, Database
from aihub.documents.tables.links import Order, new_id, read_page
from aihub.documents.tables.records import FileCounts, StoreChanges, StoreVersion, VectorStoreRecord
from aihub.documents.tables.vector_index import ensure_vector_index
from aihub.documents.tables.vector_store_files import VectorStoreFileTable

__all__ = ["VectorStoreFileTable", "VectorStoreTable"]

DELETE_TIMEOUT_S = 60.0

_SELECT: LiteralString = """
    SELECT item.id, item.tenant_id, item.name, item.description, item.metadata, item.embedding_model, item.dimensions,
        item.version, item.usage_bytes, item.chunk_count, item.expires_after_days,
        extract(epoch FROM item.created_at)::bigint AS created_at,
        extract(epoch FROM item.last_active_at)::bigint AS last_active_at,
        extract(epoch FROM item.last_active_at + make_interval(days => item.expires_after_days))::bigint AS expires_at,
        coalesce(item.last_active_at + make_interval(days => item.expires_after_days) <= now(), false) AS is_expired,
        counts.*
    FROM vector_stores AS item
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE status = 'in_progress') AS in_progress,
            count(*) FILTER (WHERE status = 'completed') AS completed,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
            count(*) AS total
        FROM vector_store_files AS l WHERE l.tenant_id = item.tenant_id AND l.store_id = item.id
    ) AS counts
    WHERE item.tenant_id = %(tenant)s
"""


_SELECT_VERSIONS: LiteralString = """
    SELECT id, version, embedding_model,
        coalesce(last_active_at + make_interval(days => expires_after_days) <= now(), false) AS is_expired,
        last_active_at < now() - interval '1 minute' AS is_unused
    FROM vector_stores WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s)
"""


class VectorStoreTable:
    """Table `vector_stores`; every call is scoped by tenant.

    All methods raise `StorageUnavailableError` when PostgreSQL does not answer.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(
        self,
        tenant_id: str,
        *,
        name: str | None,
        description: str | None,
        metadata: dict[str, str],
        embedding_model: str,
        dimensions: int,
        expires_after: dict[str, Any] | None,
    ) -> VectorStoreRecord:
        """Create an empty store, with a vector index for `dimensions` where none exists yet.

        Raises:
            ConfigurationError: More dimensions than pgvector can index.
        """
        await ensure_vector_index(self._db, dimensions)
        store_id = new_id("vs_")
        async with self._db.transaction() as connection:
            await connection.execute(
                """
                INSERT INTO vector_stores
                    (tenant_id, id, name, description, metadata, embedding_model, dimensions, expires_after_days)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
                """,
                (tenant_id, store_id, name, description, Jsonb(metadata), embedding_model, dimensions, _days(expires_after)),
            )
            return await _get(connection, tenant_id, store_id)

    async def get(self, tenant_id: str, store_id: str) -> VectorStoreRecord:
        """Return one store.

        Raises:
            NotFoundError: No such store.
        """
        async with self._db.connection() as connection:
            return await _get(connection, tenant_id, store_id)

    async def get_many(self, tenant_id: str, store_ids: Sequence[str]) -> list[VectorStoreRecord]:
        """Return the stores in the order asked.

        Raises:
            NotFoundError: One of them does not exist; the message names it.
        """
        async with self._db.connection() as connection, connection.cursor(row_factory=_record_row) as cursor:
            await cursor.execute(_SELECT + " AND item.id = ANY(%(ids)s)", {"tenant": tenant_id, "ids": list(store_ids)})
            found = {record.id: record for record in await cursor.fetchall()}
        missing = next((store_id for store_id in store_ids if store_id not in found), None)
        if missing is not None:
            raise _missing(missing)
        return [found[store_id] for store_id in store_ids]

    async def content_versions(self, tenant_id: str, store_ids: Sequence[str]) -> list[StoreVersion]:
        """Return what tells the content of stores now from that of another time, in the order asked; one quick query.

        A store's version changes in the transaction that changes what is found in it. So who reads the version before the content
        sees content of this version or a later one.

        Raises:
            NotFoundError: One of them does not exist; the message names it.
        """
        async with self._db.connection() as connection, connection.cursor(row_factory=class_row(StoreVersion)) as cursor:
            await cursor.execute(_SELECT_VERSIONS, {"tenant": tenant_id, "ids": list(store_ids)})
            found = {version.id: version for version in await cursor.fetchall()}
        missing = next((store_id for store_id in store_ids if store_id not in found), None)
        if missing is not None:
            raise _missing(missing)
        return [found[store_id] for store_id in store_ids]

    async def list(
        self,
        tenant_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        order: Order = "desc",
        only: Collection[str] | None = None,
    ) -> tuple[list[VectorStoreRecord], bool]:
        """Return one page in creation order and whether more follow.

        Args:
            only: Ids that are listed; all when None.

        Raises:
            InvalidRequestError: `after` or `before` names no store.
        """
        async with self._db.connection() as connection:
            return await read_page(
                connection,
                _record_row,
                _SELECT + " AND (%(only)s::text[] IS NULL OR item.id = ANY(%(only)s))",
                "SELECT seq FROM vector_stores WHERE tenant_id = %(tenant)s AND id = %(anchor)s",
                {"tenant": tenant_id, "only": None if only is None else list(only)},
                limit=limit,
                after=after,
                before=before,
                order=order,
            )

    async def update(self, tenant_id: str, store_id: str, changes: StoreChanges) -> VectorStoreRecord:
        """Change the given fields.

        Raises:
            NotFoundError: No such store.
        """
        async with self._db.transaction() as connection:
            await connection.execute(
                """
                UPDATE vector_stores SET
                    name = CASE WHEN %(has_name)s THEN %(name)s ELSE name END,
                    metadata = CASE WHEN %(has_metadata)s THEN %(metadata)s ELSE metadata END,
                    expires_after_days = CASE WHEN %(has_expiry)s THEN %(days)s ELSE expires_after_days END,
                    last_active_at = now()
                WHERE tenant_id = %(tenant)s AND id = %(store)s
                """,
                {
                    "tenant": tenant_id,
                    "store": store_id,
                    "has_name": "name" in changes,
                    "name": changes.get("name"),
                    "has_metadata": "metadata" in changes,
                    "metadata": Jsonb(changes.get("metadata") or {}),
                    "has_expiry": "expires_after" in changes,
                    "days": _days(changes.get("expires_after")),
                },
            )
            return await _get(connection, tenant_id, store_id)

    async def delete(self, tenant_id: str, store_id: str) -> None:
        """Delete the store with its chunks; the files stay.

        Raises:
            NotFoundError: No such store.
        """
        async with self._db.transaction(timeout_s=DELETE_TIMEOUT_S) as connection:
            cursor = await connection.execute("DELETE FROM vector_stores WHERE tenant_id = %s AND id = %s", (tenant_id, store_id))
            if cursor.rowcount == 0:
                raise _missing(store_id)

    async def touch(self, tenant_id: str, store_ids: Sequence[str]) -> None:
        """Note that the stores were used just now (written at most once a minute). An expired store stays expired."""
        async with self._db.connection() as connection:
            await connection.execute(
                """
                UPDATE vector_stores SET last_active_at = now()
                WHERE tenant_id = %s AND id = ANY(%s) AND last_active_at < now() - interval '1 minute'
                    AND (expires_after_days IS NULL OR last_active_at + make_interval(days => expires_after_days) > now())
                """,
                (tenant_id, list(store_ids)),
            )


async def _get(connection: Connection, tenant_id: str, store_id: str) -> VectorStoreRecord:
    async with connection.cursor(row_factory=_record_row) as cursor:
        await cursor.execute(_SELECT + " AND item.id = %(store)s", {"tenant": tenant_id, "store": store_id})
        record = await cursor.fetchone()
    if record is None:
        raise _missing(store_id)
    return record


def _record_row(cursor: AsyncCursor[Any]) -> RowMaker[VectorStoreRecord]:
    make_dict = dict_row(cursor)

    def make(values: Sequence[Any]) -> VectorStoreRecord:
        row = make_dict(values)
        counts = FileCounts(**{key: row.pop(key) for key in ("in_progress", "completed", "failed", "cancelled", "total")})
        days, is_expired = row.pop("expires_after_days"), row.pop("is_expired")
        return VectorStoreRecord(
            **row,
            status="expired" if is_expired else "in_progress" if counts.in_progress else "completed",
            expires_after=None if days is None else {"anchor": "last_active_at", "days": days},
            file_counts=counts,
        )

    return make


def _days(expires_after: dict[str, Any] | None) -> int | None:
    return None if expires_after is None else int(expires_after["days"])


def _missing(store_id: str) -> NotFoundError:
    return NotFoundError(f"No vector store with id {store_id!r}.")
