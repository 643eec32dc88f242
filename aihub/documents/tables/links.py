"""What links files to vector stores: row locks, cursor pages over `seq`, and extracted texts in parts.

Locks are always taken in this order: file, store, link, and the store's counters last. So no two transactions wait for each
other, and versions grow in commit order.
"""

import secrets
from typing import Any, Literal, LiteralString, TypeVar

from psycopg.rows import AsyncRowFactory

from aihub.core.errors import InvalidRequestError, NotFoundError
from aihub.core.postgres import Connection


def new_id(prefix: str) -> str:
    """Return a fresh object id such as `file-5f0c...`: 96 random bits."""
    return prefix + secrets.token_hex(12)


async def lock_file(connection: Connection, tenant_id: str, file_id: str) -> bool:
    """Keep a file from being deleted and from being processed twice at once; False when there is none."""
    cursor = await connection.execute(
        "SELECT FROM files WHERE tenant_id = %s AND id = %s AND (expires_at IS NULL OR expires_at > now()) FOR NO KEY UPDATE",
        (tenant_id, file_id),
    )
    return await cursor.fetchone() is not None


async def lock_store(connection: Connection, tenant_id: str, store_id: str) -> bool:
    """Keep a store from being deleted; False when there is none."""
    cursor = await connection.execute(
        "SELECT FROM vector_stores WHERE tenant_id = %s AND id = %s FOR KEY SHARE", (tenant_id, store_id)
    )
    return await cursor.fetchone() is not None


async def count_document(connection: Connection, tenant_id: str, store_id: str, *, chunks: int, size_bytes: int) -> int:
    """Add a document to a store's counters and return the new version; the row stays locked until the commit."""
    cursor = await connection.execute(
        """
        UPDATE vector_stores SET version = version + 1, chunk_count = chunk_count + %(chunks)s,
            usage_bytes = usage_bytes + %(bytes)s, last_active_at = now()
        WHERE tenant_id = %(tenant)s AND id = %(store)s RETURNING version
        """,
        {"tenant": tenant_id, "store": store_id, "chunks": chunks, "bytes": size_bytes},
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def remove_link(connection: Connection, tenant_id: str, store_id: str, file_id: str) -> bool:
    """Take a file with its chunks out of a store and note the removal; False when it was not attached.

    The caller has locked the store.
    """
    cursor = await connection.execute(
        """
        DELETE FROM vector_store_files WHERE tenant_id = %s AND store_id = %s AND file_id = %s
        RETURNING chunk_count, usage_bytes
        """,
        (tenant_id, store_id, file_id),
    )
    removed = await cursor.fetchone()
    if removed is None:
        return False
    version = await count_document(connection, tenant_id, store_id, chunks=-removed[0], size_bytes=-removed[1])
    await connection.execute(
        """
        INSERT INTO vector_store_removals (tenant_id, store_id, file_id, version) VALUES (%s, %s, %s, %s)
        ON CONFLICT (tenant_id, store_id, file_id) DO UPDATE SET version = excluded.version
        """,
        (tenant_id, store_id, file_id, version),
    )
    return True


Row = TypeVar("Row")
Order = Literal["asc", "desc"]


async def read_page(
    connection: Connection,
    row_factory: AsyncRowFactory[Row],
    select: LiteralString,
    anchor_query: LiteralString,
    params: dict[str, Any],
    *,
    limit: int,
    after: str | None,
    before: str | None,
    order: Order,
) -> tuple[list[Row], bool]:
    """Return one page and whether more rows follow in the direction of reading.

    Args:
        connection: Inside a transaction or not.
        row_factory: Makes the rows.
        select: A SELECT that calls the paged table `item` and ends in its WHERE clause.
        anchor_query: A SELECT of `seq` for the id in `%(anchor)s`.
        params: For both statements.
        limit: Most rows returned.
        after: The page starts behind this id.
        before: The page ends in front of this id; not together with `after`.
        order: Of the page, by creation.

    Raises:
        InvalidRequestError: `after` or `before` names nothing, or both are given.
    """
    if after is not None and before is not None:
        raise InvalidRequestError("Give either 'after' or 'before', not both.", param="before")
    is_descending = (order == "desc") != (before is not None)
    position = 2**63 - 1 if is_descending else 0
    anchor = after if after is not None else before
    if anchor is not None:
        found = await (await connection.execute(anchor_query, params | {"anchor": anchor})).fetchone()
        if found is None:
            name = "after" if after is not None else "before"
            raise InvalidRequestError(f"{name!r} names no object of this list: {anchor!r}.", param=name)
        position = found[0]
    down: LiteralString = " AND item.seq < %(position)s ORDER BY item.seq DESC LIMIT %(fetch)s"
    up: LiteralString = " AND item.seq > %(position)s ORDER BY item.seq ASC LIMIT %(fetch)s"
    async with connection.cursor(row_factory=row_factory) as cursor:
        await cursor.execute(select + (down if is_descending else up), params | {"position": position, "fetch": limit + 1})
        rows = await cursor.fetchall()
    page = rows[:limit]
    return (page[::-1] if before is not None else page), len(rows) > limit


PART_CHARS = 65_536


async def write_text(connection: Connection, tenant_id: str, file_id: str, text: str, text_format: str) -> None:
    """Replace the text of a file; call it inside a transaction that has locked the file's row."""
    await connection.execute("DELETE FROM file_texts WHERE tenant_id = %s AND file_id = %s", (tenant_id, file_id))
    # An empty text has one empty part: it was extracted, unlike a text that is missing.
    parts = [text[start : start + PART_CHARS] for start in range(0, len(text), PART_CHARS)] or [""]
    async with connection.cursor() as cursor:
        await cursor.executemany(
            "INSERT INTO file_texts (tenant_id, file_id, part, format, text) VALUES (%s, %s, %s, %s, %s)",
            [(tenant_id, file_id, number, text_format, part) for number, part in enumerate(parts)],
        )


async def is_cited(connection: Connection, tenant_id: str, file_id: str) -> bool:
    """Whether chunks of some store point into the file's text; call it inside a transaction that has locked the file's row."""
    cursor = await connection.execute(
        "SELECT FROM vector_store_files WHERE tenant_id = %s AND file_id = %s AND status = 'completed' LIMIT 1",
        (tenant_id, file_id),
    )
    return await cursor.fetchone() is not None


async def copy_text(connection: Connection, tenant_id: str, source_file_id: str, file_id: str) -> None:
    """Give a file the text of another one with the same content; call it inside a transaction that has locked the file's row."""
    await connection.execute("DELETE FROM file_texts WHERE tenant_id = %s AND file_id = %s", (tenant_id, file_id))
    await connection.execute(
        """
        INSERT INTO file_texts (tenant_id, file_id, part, format, text)
        SELECT tenant_id, %(target)s, part, format, text FROM file_texts
        WHERE tenant_id = %(tenant)s AND file_id = %(source)s
        """,
        {"tenant": tenant_id, "source": source_file_id, "target": file_id},
    )


async def read_text(connection: Connection, tenant_id: str, file_id: str, start: int, end: int | None) -> str:
    """Return `text[start:end]` for non-negative offsets.

    Raises:
        NotFoundError: The file has no text.
    """
    first = start // PART_CHARS
    last = 2**31 - 1 if end is None else max(first, (end - 1) // PART_CHARS)
    cursor = await connection.execute(
        """
        SELECT EXISTS (SELECT FROM file_texts WHERE tenant_id = %(tenant)s AND file_id = %(file)s),
               (SELECT string_agg(text, '' ORDER BY part) FROM file_texts
                WHERE tenant_id = %(tenant)s AND file_id = %(file)s AND part BETWEEN %(first)s AND %(last)s)
        """,
        {"tenant": tenant_id, "file": file_id, "first": min(first, 2**31 - 1), "last": min(last, 2**31 - 1)},
    )
    exists, text = await cursor.fetchone() or (False, None)
    if not exists:
        raise NotFoundError(f"No extracted text of file {file_id!r}: it does not exist or was not processed.")
    offset = first * PART_CHARS
    return (text or "")[start - offset : None if end is None else max(0, end - offset)]
