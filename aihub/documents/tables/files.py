"""Uploaded files and the text extracted from them."""

import hashlib
from collections.abc import AsyncIterator
from typing import LiteralString

from psycopg.rows import class_row

from aihub.core.errors import NotFoundError, PayloadTooLargeError
from aihub.core.postgres import Connection, Database
from aihub.documents.parsing.formats.media import begins_as_media
from aihub.documents.tables.links import Order, lock_file, new_id, read_page, read_text, remove_link, write_text
from aihub.documents.tables.records import FileRecord

PART_BYTES = 2**20
UPLOAD_TIMEOUT_S = 60.0
DELETE_TIMEOUT_S = 30.0

_SELECT: LiteralString = """
    SELECT item.id, item.tenant_id, item.filename, item.purpose, item.size_bytes, encode(item.sha256, 'hex') AS sha256,
        item.status, item.text_encoding, extract(epoch FROM item.created_at)::bigint AS created_at,
        extract(epoch FROM item.expires_at)::bigint AS expires_at
    FROM files AS item
    WHERE item.tenant_id = %(tenant)s AND (item.expires_at IS NULL OR item.expires_at > now())
"""


class FileTable:
    """Tables `files`, `file_parts` and `file_texts`; every call is scoped by tenant.

    All methods raise `StorageUnavailableError` when PostgreSQL does not answer.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(
        self,
        tenant_id: str,
        filename: str,
        purpose: str,
        stream: AsyncIterator[bytes],
        max_bytes: int,
        *,
        expires_after_s: int | None = None,
        text_encoding: str | None = None,
    ) -> FileRecord:
        """Store a whole stream in one transaction.

        The stream should come from local memory or disk: a connection is held until it ends, for at most a minute.
        `text_encoding` is Python's codec for the encoding that the upload named, None when it named none.

        Raises:
            PayloadTooLargeError: More than `max_bytes`; nothing is stored.
        """
        file_id = new_id("file-")
        async with self._db.transaction(timeout_s=UPLOAD_TIMEOUT_S) as connection:
            await connection.execute(
                """
                INSERT INTO files (tenant_id, id, filename, purpose, size_bytes, sha256, status, expires_at, text_encoding)
                VALUES (%s, %s, %s, %s, 0, '', 'uploaded', now() + make_interval(secs => %s), %s)
                """,
                (tenant_id, file_id, filename, purpose, expires_after_s, text_encoding),
            )
            digest, size_bytes, number, is_media = hashlib.sha256(), 0, 0, False
            async for part in _parts_of(stream):
                size_bytes += len(part)
                if size_bytes > max_bytes:
                    raise PayloadTooLargeError(f"The file is larger than {max_bytes} bytes, the most this server accepts.")
                digest.update(part)
                is_media = is_media or (number == 0 and begins_as_media(part))
                await connection.execute(
                    "INSERT INTO file_parts (tenant_id, file_id, part, data) VALUES (%s, %s, %s, %s)",
                    (tenant_id, file_id, number, part),
                )
                number += 1
            await connection.execute(
                "UPDATE files SET size_bytes = %s, sha256 = %s, is_media = %s WHERE tenant_id = %s AND id = %s",
                (size_bytes, digest.digest(), is_media, tenant_id, file_id),
            )
            return await _get(connection, tenant_id, file_id)

    async def get(self, tenant_id: str, file_id: str) -> FileRecord:
        """Return one file.

        Raises:
            NotFoundError: No such file.
        """
        async with self._db.connection() as connection:
            return await _get(connection, tenant_id, file_id)

    async def list(
        self,
        tenant_id: str,
        *,
        limit: int = 20,
        after: str | None = None,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> tuple[list[FileRecord], bool]:
        """Return one page in upload order and whether more follow.

        Raises:
            InvalidRequestError: `after` names no file.
        """
        async with self._db.connection() as connection:
            return await read_page(
                connection,
                class_row(FileRecord),
                _SELECT + " AND (%(purpose)s::text IS NULL OR item.purpose = %(purpose)s)",
                "SELECT seq FROM files WHERE tenant_id = %(tenant)s AND id = %(anchor)s",
                {"tenant": tenant_id, "purpose": purpose},
                limit=limit,
                after=after,
                before=None,
                order=order,
            )

    async def content(self, tenant_id: str, file_id: str) -> AsyncIterator[bytes]:
        """Yield the bytes in pieces of at most 1 MiB; no connection is held between them.

        Raises:
            NotFoundError: No such file, or it was deleted meanwhile.
        """
        record = await self.get(tenant_id, file_id)
        for number in range(-(-record.size_bytes // PART_BYTES)):
            async with self._db.connection() as connection:
                cursor = await connection.execute(
                    "SELECT data FROM file_parts WHERE tenant_id = %s AND file_id = %s AND part = %s",
                    (tenant_id, file_id, number),
                    binary=True,
                )
                row = await cursor.fetchone()
            if row is None:
                raise NotFoundError(f"File {file_id!r} was deleted.")
            yield row[0]

    async def delete(self, tenant_id: str, file_id: str) -> None:
        """Delete the file, its text, and its chunks in every vector store.

        Raises:
            NotFoundError: No such file.
        """
        async with self._db.transaction(timeout_s=DELETE_TIMEOUT_S) as connection:
            if not await _delete(connection, tenant_id, file_id):
                raise _missing(file_id)

    async def delete_expired(self, limit: int = 20) -> int:
        """Delete files of any tenant whose time has passed, at most `limit`, and return how many."""
        async with self._db.connection() as connection:
            cursor = await connection.execute(
                "SELECT tenant_id, id FROM files WHERE expires_at <= now() ORDER BY expires_at LIMIT %s", (limit,)
            )
            expired = await cursor.fetchall()
        for tenant_id, file_id in expired:
            async with self._db.transaction(timeout_s=DELETE_TIMEOUT_S) as connection:
                await _delete(connection, tenant_id, file_id)
        return len(expired)

    async def save_text(self, tenant_id: str, file_id: str, text: str, text_format: str) -> None:
        """Store the extracted text, replacing an earlier one.

        Raises:
            NotFoundError: No such file.
            InvalidRequestError: The text holds NUL characters or lone surrogates.
        """
        async with self._db.transaction(timeout_s=DELETE_TIMEOUT_S) as connection:
            if not await lock_file(connection, tenant_id, file_id):
                raise _missing(file_id)
            await write_text(connection, tenant_id, file_id, text, text_format)

    async def get_text(self, tenant_id: str, file_id: str) -> str:
        """Return the whole extracted text.

        Raises:
            NotFoundError: No such file, or it was never processed.
        """
        async with self._db.connection() as connection:
            return await read_text(connection, tenant_id, file_id, 0, None)

    async def text_slice(self, tenant_id: str, file_id: str, start: int, end: int) -> str:
        """Return `text[start:end]` in characters, for offsets of 0 or more.

        Raises:
            NotFoundError: No such file, or it was never processed.
        """
        async with self._db.connection() as connection:
            return await read_text(connection, tenant_id, file_id, max(0, start), max(0, end))


async def _get(connection: Connection, tenant_id: str, file_id: str) -> FileRecord:
    async with connection.cursor(row_factory=class_row(FileRecord)) as cursor:
        await cursor.execute(_SELECT + " AND item.id = %(file)s", {"tenant": tenant_id, "file": file_id})
        record = await cursor.fetchone()
    if record is None:
        raise _missing(file_id)
    return record


async def _delete(connection: Connection, tenant_id: str, file_id: str) -> bool:
    locked = await connection.execute("SELECT FROM files WHERE tenant_id = %s AND id = %s FOR UPDATE", (tenant_id, file_id))
    if await locked.fetchone() is None:
        return False
    stores = await connection.execute(
        """
        SELECT s.id FROM vector_stores AS s
        JOIN vector_store_files AS l ON l.tenant_id = s.tenant_id AND l.store_id = s.id
        WHERE l.tenant_id = %s AND l.file_id = %s
        ORDER BY s.id FOR KEY SHARE OF s
        """,
        (tenant_id, file_id),
    )
    for (store_id,) in await stores.fetchall():
        await remove_link(connection, tenant_id, store_id, file_id)
    await connection.execute("DELETE FROM files WHERE tenant_id = %s AND id = %s", (tenant_id, file_id))
    return True


def _missing(file_id: str) -> NotFoundError:
    return NotFoundError(f"No file with id {file_id!r}.")


async def _parts_of(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Cut a stream anew into parts of `PART_BYTES`."""
    buffer = bytearray()
    async for piece in stream:
        buffer += piece
        while len(buffer) >= PART_BYTES:
            yield bytes(buffer[:PART_BYTES])
            del buffer[:PART_BYTES]
    if buffer:
        yield bytes(buffer)
