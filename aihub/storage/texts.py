"""Extracted texts, kept in parts so that a slice of a long one reads little."""

from aihub.errors import NotFoundError
from aihub.storage.postgres import Connection

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


async def copy_text(connection: Connection, tenant_id: str, source_file_id: str, file_id: str) -> None:
    """Give a file the text of another one with the same content, unless it has one."""
    await connection.execute(
        """
        INSERT INTO file_texts (tenant_id, file_id, part, format, text)
        SELECT tenant_id, %(target)s, part, format, text FROM file_texts
        WHERE tenant_id = %(tenant)s AND file_id = %(source)s
        ON CONFLICT DO NOTHING
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
