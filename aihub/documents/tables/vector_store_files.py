"""The files attached to vector stores, which are also the queue of documents to process."""

from collections.abc import Sequence
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from aihub.core.errors import NotFoundError
from aihub.core.postgres import Connection, Database
from aihub.documents.service import MediaText
from aihub.documents.tables.completion import copy_document, lock_claim, write_document
from aihub.documents.tables.links import Order, count_document, lock_file, lock_store, read_page, remove_link
from aihub.documents.tables.media_texts import read_media_text
from aihub.documents.tables.records import Attributes, ChunkRow, StoreFileStatus, VectorStoreFileRecord

MAX_ATTEMPTS = 3
WRITE_TIMEOUT_S = 300.0
"""Long documents: 10,000 chunks of 384 dimensions take about a minute into a large index on two busy cores."""

DELETE_TIMEOUT_S = 30.0

_COLUMNS: LiteralString = """
    item.file_id, item.store_id, item.tenant_id, file.filename, file.text_encoding, item.status, item.last_error, item.attributes,
    item.chunking_strategy, item.usage_bytes, item.chunk_count, extract(epoch FROM item.created_at)::bigint AS created_at,
    item.version, item.attempts AS attempt
"""
SELECT_FILES: LiteralString = (
    "SELECT"
    + _COLUMNS
    + """
    FROM vector_store_files AS item
    JOIN files AS file ON file.tenant_id = item.tenant_id AND file.id = item.file_id
    WHERE item.tenant_id = %(tenant)s AND item.store_id = %(store)s
"""
)


class VectorStoreFileTable:
    """Table `vector_store_files`; every call but `claim` is scoped by tenant.

    All methods raise `StorageUnavailableError` when PostgreSQL does not answer.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def attach(
        self, tenant_id: str, store_id: str, file_id: str, *, attributes: Attributes, chunking_strategy: dict[str, Any]
    ) -> VectorStoreFileRecord:
        """Attach a file as `in_progress`.

        One that is attached already is returned as it is, except that a failed or cancelled one starts anew.

        Raises:
            NotFoundError: No such store or file.
        """
        async with self._db.transaction() as connection:
            if not await lock_file(connection, tenant_id, file_id):
                raise NotFoundError(f"No file with id {file_id!r}.", param="file_id")
            await _require_store(connection, tenant_id, store_id)
            await connection.execute(
                """
                INSERT INTO vector_store_files AS l (tenant_id, store_id, file_id, attributes, chunking_strategy)
                VALUES (%s, %s, %s, %s, %s)
                ON CONFLICT (tenant_id, store_id, file_id) DO UPDATE SET
                    status = 'in_progress', last_error = NULL, attempts = 0, lease_until = NULL, worker_id = NULL,
                    attributes = excluded.attributes, chunking_strategy = excluded.chunking_strategy
                WHERE l.status IN ('failed', 'cancelled')
                """,
                (tenant_id, store_id, file_id, Jsonb(attributes), Jsonb(chunking_strategy)),
            )
            return await _get(connection, tenant_id, store_id, file_id)

    async def get(self, tenant_id: str, store_id: str, file_id: str) -> VectorStoreFileRecord:
        """Return one attached file.

        Raises:
            NotFoundError: The file is not attached.
        """
        async with self._db.connection() as connection:
            return await _get(connection, tenant_id, store_id, file_id)

    async def list(
        self,
        tenant_id: str,
        store_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
        order: Order = "desc",
        status: StoreFileStatus | None = None,
    ) -> tuple[list[VectorStoreFileRecord], bool]:
        """Return one page in attachment order and whether more follow.

        Raises:
            NotFoundError: No such store.
            InvalidRequestError: `after` or `before` names no file of the store.
        """
        async with self._db.transaction() as connection:
            await _require_store(connection, tenant_id, store_id)
            return await read_page(
                connection,
                class_row(VectorStoreFileRecord),
                SELECT_FILES + " AND (%(status)s::text IS NULL OR item.status = %(status)s)",
                """
                SELECT seq FROM vector_store_files
                WHERE tenant_id = %(tenant)s AND store_id = %(store)s AND file_id = %(anchor)s
                """,
                {"tenant": tenant_id, "store": store_id, "status": status},
                limit=limit,
                after=after,
                before=before,
                order=order,
            )

    async def update_attributes(
        self, tenant_id: str, store_id: str, file_id: str, attributes: Attributes
    ) -> VectorStoreFileRecord:
        """Replace all attributes.

        Raises:
            NotFoundError: The file is not attached.
        """
        async with self._db.transaction() as connection:
            await connection.execute(
                "UPDATE vector_store_files SET attributes = %s WHERE tenant_id = %s AND store_id = %s AND file_id = %s",
                (Jsonb(attributes), tenant_id, store_id, file_id),
            )
            await count_document(connection, tenant_id, store_id, chunks=0, size_bytes=0)
            return await _get(connection, tenant_id, store_id, file_id)

    async def detach(self, tenant_id: str, store_id: str, file_id: str) -> None:
        """Remove the file from the store, searchable or not; the file itself stays.

        Raises:
            NotFoundError: The file is not attached.
        """
        async with self._db.transaction(timeout_s=DELETE_TIMEOUT_S) as connection:
            await _require_store(connection, tenant_id, store_id)
            if not await remove_link(connection, tenant_id, store_id, file_id):
                raise _missing(store_id, file_id)

    async def cancel(self, tenant_id: str, store_id: str, file_id: str) -> VectorStoreFileRecord:
        """Stop processing: `in_progress` becomes `cancelled`, any other status stays.

        Raises:
            NotFoundError: The file is not attached.
        """
        async with self._db.transaction() as connection:
            await connection.execute(
                """
                UPDATE vector_store_files SET status = 'cancelled', lease_until = NULL, worker_id = NULL
                WHERE tenant_id = %s AND store_id = %s AND file_id = %s AND status = 'in_progress'
                """,
                (tenant_id, store_id, file_id),
            )
            return await _get(connection, tenant_id, store_id, file_id)

    async def claim(self, lease_s: float, worker_id: str, *, media: bool = False) -> VectorStoreFileRecord | None:
        """Take the oldest waiting file of any tenant for `lease_s` seconds, or None when none waits.

        With `media` it is a recording, a video or an image, else none of them.
        No two workers hold the same file. A file whose lease ran out is given out again; after 3 attempts it fails with
        code `server_error`.
        """
        async with self._db.transaction() as connection:
            await connection.execute(
                """
                UPDATE vector_store_files SET status = 'failed', last_error = %s, lease_until = NULL, worker_id = NULL
                WHERE seq IN (
                    SELECT seq FROM vector_store_files
                    WHERE status = 'in_progress' AND attempts >= %s AND lease_until < now() FOR UPDATE SKIP LOCKED
                )
                """,
                (_error("server_error", f"Processing did not end in {MAX_ATTEMPTS} attempts."), MAX_ATTEMPTS),
            )
            cursor = await connection.execute(
                """
                UPDATE vector_store_files SET attempts = attempts + 1, worker_id = %(worker)s,
                    lease_until = now() + make_interval(secs => %(lease)s)
                WHERE seq = (
                    SELECT item.seq FROM vector_store_files AS item
                    JOIN files AS file ON file.tenant_id = item.tenant_id AND file.id = item.file_id AND file.is_media = %(media)s
                    WHERE item.status = 'in_progress' AND item.attempts < %(max)s
                        AND (item.lease_until IS NULL OR item.lease_until < now())
                    ORDER BY item.seq LIMIT 1 FOR UPDATE OF item SKIP LOCKED
                )
                RETURNING tenant_id, store_id, file_id
                """,
                {"worker": worker_id, "lease": lease_s, "max": MAX_ATTEMPTS, "media": media},
            )
            claimed = await cursor.fetchone()
            return None if claimed is None else await _get(connection, *claimed)

    async def heartbeat(self, record: VectorStoreFileRecord, lease_s: float) -> bool:
        """Prolong a claim; False when it is lost (cancelled, detached, or taken over), so that work can stop."""
        async with self._db.connection() as connection:
            cursor = await connection.execute(
                """
                UPDATE vector_store_files SET lease_until = now() + make_interval(secs => %s)
                WHERE tenant_id = %s AND store_id = %s AND file_id = %s AND status = 'in_progress' AND attempts = %s
                """,
                (lease_s, record.tenant_id, record.store_id, record.file_id, record.attempt),
            )
            return cursor.rowcount == 1

    async def release(self, record: VectorStoreFileRecord, delay_s: float = 0.0) -> bool:
        """Give a claim back without counting the attempt, to be taken again after `delay_s`; False when it is lost.

        For a worker that shuts down or finds the embedder away.
        """
        async with self._db.connection() as connection:
            cursor = await connection.execute(
                """
                UPDATE vector_store_files SET attempts = attempts - 1, worker_id = NULL,
                    lease_until = now() + make_interval(secs => %s)
                WHERE tenant_id = %s AND store_id = %s AND file_id = %s AND status = 'in_progress' AND attempts = %s
                """,
                (delay_s, record.tenant_id, record.store_id, record.file_id, record.attempt),
            )
            return cursor.rowcount == 1

    async def complete(self, record: VectorStoreFileRecord, text: str, text_format: str, chunks: Sequence[ChunkRow]) -> bool:
        """Make a claimed document searchable, all of it or nothing, in one transaction.

        Returns:
            False, with nothing written, when the claim is lost (cancelled, detached, or taken over).

        Raises:
            CitedTextError: The file is a recording or an image, and chunks of another store point into another text of it.
            InternalError: An embedding's length is not the store's.
            InvalidRequestError: A text holds NUL characters or lone surrogates.
        """
        async with self._db.transaction(timeout_s=WRITE_TIMEOUT_S) as connection:
            return await write_document(connection, record, text, text_format, chunks)

    async def complete_from_duplicate(self, record: VectorStoreFileRecord) -> bool:
        """Complete a claimed document by copying the chunks of the same content, if the tenant has it processed already.

        The source is a completed file with the same bytes and file name suffix, in a store with the same embedding model,
        under the same chunking strategy; and with the same text, where another store cites this file already.

        Returns:
            False, with nothing written, when there is none or the claim is lost.
        """
        async with self._db.transaction(timeout_s=WRITE_TIMEOUT_S) as connection:
            return await copy_document(connection, record)

    async def media_text(self, record: VectorStoreFileRecord) -> MediaText | None:
        """Return the text that another store has of this recording or image; None when none has."""
        async with self._db.transaction(timeout_s=WRITE_TIMEOUT_S, snapshot=True) as connection:
            return await read_media_text(connection, record.tenant_id, record.file_id)

    async def fail(self, record: VectorStoreFileRecord, code: str, message: str) -> bool:
        """Mark a claimed document as failed; False when the claim is lost."""
        async with self._db.transaction() as connection:
            locked = await lock_claim(connection, record)
            if locked is None:
                return False
            await connection.execute(
                """
                UPDATE vector_store_files SET status = 'failed', last_error = %s, lease_until = NULL, worker_id = NULL
                WHERE tenant_id = %s AND seq = %s
                """,
                (_error(code, message), record.tenant_id, locked[0]),
            )
            return True


async def _get(connection: Connection, tenant_id: str, store_id: str, file_id: str) -> VectorStoreFileRecord:
    async with connection.cursor(row_factory=class_row(VectorStoreFileRecord)) as cursor:
        await cursor.execute(
            SELECT_FILES + " AND item.file_id = %(file)s", {"tenant": tenant_id, "store": store_id, "file": file_id}
        )
        record = await cursor.fetchone()
    if record is None:
        raise _missing(store_id, file_id)
    return record


async def _require_store(connection: Connection, tenant_id: str, store_id: str) -> None:
    if not await lock_store(connection, tenant_id, store_id):
        raise NotFoundError(f"No vector store with id {store_id!r}.")


def _missing(store_id: str, file_id: str) -> NotFoundError:
    return NotFoundError(f"No file with id {file_id!r} in vector store {store_id!r}.")


def _error(code: str, message: str) -> Jsonb:
    return Jsonb({"code": code, "message": message})
