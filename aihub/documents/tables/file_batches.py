"""Files attached to a vector store together, and asked after together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.core.errors import NotFoundError
from aihub.core.postgres import Connection, Database
from aihub.documents.tables.links import Order, lock_store, new_id, read_page
from aihub.documents.tables.records import Attributes, FileBatchRecord, StoreFileStatus, VectorStoreFileRecord
from aihub.documents.tables.vector_store_files import SELECT_FILES

CREATE_TIMEOUT_S = 30.0

_IN_BATCH: LiteralString = """
    AND item.file_id IN (
        SELECT file_id FROM vector_store_batch_files WHERE tenant_id = %(tenant)s AND batch_id = %(batch)s
    )
"""
_ANCHOR: LiteralString = (
    "SELECT item.seq FROM vector_store_files AS item "  # noqa: S608 - a constant
    "WHERE item.tenant_id = %(tenant)s AND item.store_id = %(store)s AND item.file_id = %(anchor)s" + _IN_BATCH
)


@dataclass(frozen=True, slots=True)
class NewFile:
    """One file of a batch that is to be attached."""

    file_id: str
    attributes: Attributes
    chunking_strategy: dict[str, Any]


class FileBatchTable:
    """Tables `vector_store_file_batches` and `vector_store_batch_files`; every call is scoped by tenant.

    All methods raise `StorageUnavailableError` when PostgreSQL does not answer.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, tenant_id: str, store_id: str, files: Sequence[NewFile]) -> FileBatchRecord:
        """Attach all files as `in_progress`, in this order, or none.

        One that is attached already joins the batch as it is, except that a failed or cancelled one starts anew.

        Args:
            files: Each file once.

        Raises:
            NotFoundError: No such store, or no such file; the message names one.
        """
        batch_id = new_id("vsfb_")
        values = {"tenant": tenant_id, "store": store_id, "batch": batch_id, "ids": [file.file_id for file in files]}
        async with self._db.transaction(timeout_s=CREATE_TIMEOUT_S) as connection:
            await _lock_files(connection, values)
            if not await lock_store(connection, tenant_id, store_id):
                raise NotFoundError(f"No vector store with id {store_id!r}.")
            await connection.execute(
                "INSERT INTO vector_store_file_batches (tenant_id, id, store_id) VALUES (%(tenant)s, %(batch)s, %(store)s)",
                values,
            )
            await connection.execute(
                """
                INSERT INTO vector_store_files AS l (tenant_id, store_id, file_id, attributes, chunking_strategy)
                SELECT %(tenant)s, %(store)s, new.file_id, new.attributes, new.chunking_strategy
                FROM unnest(%(ids)s::text[], %(attributes)s::jsonb[], %(strategies)s::jsonb[])
                    WITH ORDINALITY AS new (file_id, attributes, chunking_strategy, position)
                ORDER BY new.position
                ON CONFLICT (tenant_id, store_id, file_id) DO UPDATE SET
                    status = 'in_progress', last_error = NULL, attempts = 0, lease_until = NULL, worker_id = NULL,
                    attributes = excluded.attributes, chunking_strategy = excluded.chunking_strategy
                WHERE l.status IN ('failed', 'cancelled')
                """,
                values
                | {
                    "attributes": [Jsonb(file.attributes) for file in files],
                    "strategies": [Jsonb(file.chunking_strategy) for file in files],
                },
            )
            await connection.execute(
                "INSERT INTO vector_store_batch_files (tenant_id, batch_id, store_id, file_id) "
                "SELECT %(tenant)s, %(batch)s, %(store)s, unnest(%(ids)s::text[])",
                values,
            )
            return await _get(connection, tenant_id, store_id, batch_id)

    async def get(self, tenant_id: str, store_id: str, batch_id: str) -> FileBatchRecord:
        """Return one batch with what has become of its files; those detached since do not count.

        Raises:
            NotFoundError: The store has no such batch.
        """
        async with self._db.connection() as connection:
            return await _get(connection, tenant_id, store_id, batch_id)

    async def cancel(self, tenant_id: str, store_id: str, batch_id: str) -> FileBatchRecord:
        """Stop the processing of its files that are `in_progress`; a batch without any stays as it is.

        Raises:
            NotFoundError: The store has no such batch.
        """
        values = {"tenant": tenant_id, "store": store_id, "batch": batch_id}
        async with self._db.transaction() as connection:
            await _get(connection, tenant_id, store_id, batch_id)
            cursor = await connection.execute(
                # In one order, as others may change several of them as well.
                """
                UPDATE vector_store_files SET status = 'cancelled', lease_until = NULL, worker_id = NULL
                WHERE seq IN (
                    SELECT item.seq FROM vector_store_files AS item
                    JOIN vector_store_batch_files AS member USING (tenant_id, store_id, file_id)
                    WHERE item.tenant_id = %(tenant)s AND item.store_id = %(store)s AND member.batch_id = %(batch)s
                    AND item.status = 'in_progress' ORDER BY item.seq FOR UPDATE OF item
                )
                """,
                values,
            )
            if cursor.rowcount:
                await connection.execute(
                    "UPDATE vector_store_file_batches SET cancelled_at = coalesce(cancelled_at, now()) "
                    "WHERE tenant_id = %(tenant)s AND id = %(batch)s",
                    values,
                )
            return await _get(connection, tenant_id, store_id, batch_id)

    async def list_files(
        self,
        tenant_id: str,
        store_id: str,
        batch_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        order: Order = "desc",
        status: StoreFileStatus | None = None,
    ) -> tuple[list[VectorStoreFileRecord], bool]:
        """Return one page of the batch's files in attachment order and whether more follow.

        Raises:
            NotFoundError: The store has no such batch.
            InvalidRequestError: `after` or `before` names no file of the batch.
        """
        async with self._db.transaction() as connection:
            await _get(connection, tenant_id, store_id, batch_id)
            return await read_page(
                connection,
                class_row(VectorStoreFileRecord),
                SELECT_FILES + _IN_BATCH + " AND (%(status)s::text IS NULL OR item.status = %(status)s)",
                _ANCHOR,
                {"tenant": tenant_id, "store": store_id, "batch": batch_id, "status": status},
                limit=limit,
                after=after,
                before=before,
                order=order,
            )


async def _lock_files(connection: Connection, values: dict[str, Any]) -> None:
    cursor = await connection.execute(
        "SELECT id FROM files WHERE tenant_id = %(tenant)s AND id = ANY(%(ids)s) "
        "AND (expires_at IS NULL OR expires_at > now()) ORDER BY id FOR NO KEY UPDATE",
        values,
    )
    found = {file_id for (file_id,) in await cursor.fetchall()}
    for file_id in values["ids"]:
        if file_id not in found:
            raise NotFoundError(f"No file with id {file_id!r}. Nothing was attached.", param="file_ids")


async def _get(connection: Connection, tenant_id: str, store_id: str, batch_id: str) -> FileBatchRecord:
    async with connection.cursor(row_factory=class_row(FileBatchRecord)) as cursor:
        await cursor.execute(
            """
            SELECT batch.id, batch.store_id, extract(epoch FROM batch.created_at)::bigint AS created_at,
                batch.cancelled_at IS NOT NULL AS is_cancelled,
                count(*) FILTER (WHERE item.status = 'in_progress') AS in_progress,
                count(*) FILTER (WHERE item.status = 'completed') AS completed,
                count(*) FILTER (WHERE item.status = 'failed') AS failed,
                count(*) FILTER (WHERE item.status = 'cancelled') AS cancelled,
                count(item.file_id) AS total
            FROM vector_store_file_batches AS batch
            LEFT JOIN vector_store_batch_files AS member ON member.tenant_id = batch.tenant_id AND member.batch_id = batch.id
            LEFT JOIN vector_store_files AS item ON item.tenant_id = member.tenant_id AND item.store_id = member.store_id
                AND item.file_id = member.file_id
            WHERE batch.tenant_id = %(tenant)s AND batch.store_id = %(store)s AND batch.id = %(batch)s
            GROUP BY batch.tenant_id, batch.id
            """,
            {"tenant": tenant_id, "store": store_id, "batch": batch_id},
        )
        record = await cursor.fetchone()
    if record is None:
        raise NotFoundError(f"No file batch with id {batch_id!r} in vector store {store_id!r}.")
    return record
