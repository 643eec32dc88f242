"""What makes a document searchable: its text, chunks, vectors and terms, written inside one transaction."""

from collections.abc import Sequence
from typing import Any, get_args

from pgvector import HalfVector

from aihub.core.errors import ConflictError, InternalError
from aihub.core.postgres import Connection
from aihub.documents.tables.links import copy_text, count_document, is_cited, lock_file, lock_store, read_text, write_text
from aihub.documents.tables.media_texts import read_media_text
from aihub.documents.tables.records import ChunkRow, VectorStoreFileRecord
from aihub.media.service import MediaKind

_HALFVEC_HEADER_BYTES = 8
_MEDIA_FORMATS = frozenset(get_args(MediaKind))


class CitedTextError(ConflictError):
    """Another store has indexed another text of the same recording or image meanwhile; index that text."""

    code = "cited_text"


async def lock_claim(connection: Connection, record: VectorStoreFileRecord) -> tuple[int, int, int] | None:
    """Lock all rows a completion changes.

    Returns:
        `seq` of the store's file, `seq` and dimensions of the store; None when the claim is lost.
    """
    if not await lock_file(connection, record.tenant_id, record.file_id):
        return None
    if not await lock_store(connection, record.tenant_id, record.store_id):
        return None
    cursor = await connection.execute(
        """
        SELECT l.seq, s.seq, s.dimensions FROM vector_store_files AS l
        JOIN vector_stores AS s ON s.tenant_id = l.tenant_id AND s.id = l.store_id
        WHERE l.tenant_id = %s AND l.store_id = %s AND l.file_id = %s AND l.status = 'in_progress' AND l.attempts = %s
        FOR UPDATE OF l
        """,
        (record.tenant_id, record.store_id, record.file_id, record.attempt),
    )
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1], row[2])


async def write_document(
    connection: Connection, record: VectorStoreFileRecord, text: str, text_format: str, chunks: Sequence[ChunkRow]
) -> bool:
    """Write everything of a claimed document; False, with nothing written, when the claim is lost.

    Raises:
        CitedTextError: The file is a recording or an image, and chunks of another store point into another text of it.
        InternalError: An embedding's length is not the store's.
        InvalidRequestError: A text holds NUL characters or lone surrogates.
    """
    locked = await lock_claim(connection, record)
    if locked is None:
        return False
    link_seq, store_seq, dimensions = locked
    rows = sorted(chunks, key=lambda chunk: chunk.ordinal)
    for row in rows:
        if row.embedding.shape != (dimensions,):
            raise InternalError(f"Chunk {row.ordinal} has an embedding of shape {row.embedding.shape}, not ({dimensions},).")
    await _keep_cited_text(connection, record, text, text_format)
    await write_text(connection, record.tenant_id, record.file_id, text, text_format)
    ids = await _new_chunk_ids(connection, len(rows))
    await _copy_chunks(connection, record.tenant_id, link_seq, ids, rows)
    await _copy_vectors(connection, record.tenant_id, (store_seq, link_seq, dimensions), ids, rows)
    await connection.execute(
        """
        INSERT INTO lexical_segments
            (tenant_id, store_file_seq, chunk_ids, languages, term_ids, term_freqs, term_totals)
        VALUES (%s, %s, %s, %s, %s::bytea[], %s::bytea[], %s)
        """,
        (
            record.tenant_id,
            link_seq,
            ids,
            [row.language for row in rows],
            [row.term_ids for row in rows],
            [row.term_freqs for row in rows],
            [row.term_total for row in rows],
        ),
    )
    usage_bytes = sum(
        len(row.text.encode())
        + 2 * dimensions
        + _HALFVEC_HEADER_BYTES
        + len(row.term_ids)
        + len(row.term_freqs)
        + len(row.time_spans or b"")
        for row in rows
    )
    await _publish(connection, record, link_seq, len(rows), usage_bytes)
    return True


async def _keep_cited_text(connection: Connection, record: VectorStoreFileRecord, text: str, text_format: str) -> None:
    """Refuse to replace what was heard or seen by what is heard or seen today; text of documents is always the same."""
    if text_format not in _MEDIA_FORMATS:
        return
    media = await read_media_text(connection, record.tenant_id, record.file_id)
    if media is not None and media.text != text:
        raise CitedTextError(f"Another store cites another text of file {record.file_id!r}.")


async def copy_document(connection: Connection, record: VectorStoreFileRecord) -> bool:
    """Complete a claimed document from one with the same content; False, with nothing written, when there is none.

    The source has the same bytes, named encoding and file name suffix (which decide how it was parsed), embedding model
    and chunking.
    """
    locked = await lock_claim(connection, record)
    if locked is None:
        return False
    link_seq, store_seq, _ = locked
    source = await _find_same_content(connection, record, link_seq)
    if source is None:
        return False
    source_seq, source_file_id, chunk_count, usage_bytes = source
    if source_file_id != record.file_id:
        if not await _may_share_text(connection, record, source_file_id):
            return False
        await copy_text(connection, record.tenant_id, source_file_id, record.file_id)
    params = {"tenant": record.tenant_id, "link": link_seq, "store": store_seq, "source": source_seq}
    await _copy_rows(connection, params)
    await _publish(connection, record, link_seq, chunk_count, usage_bytes)
    return True


async def _may_share_text(connection: Connection, record: VectorStoreFileRecord, source_file_id: str) -> bool:
    """Whether no store cites another text of the file than the source's: recordings of the same bytes may have two."""
    if not await is_cited(connection, record.tenant_id, record.file_id):
        return True
    texts = [await read_text(connection, record.tenant_id, file_id, 0, None) for file_id in (record.file_id, source_file_id)]
    return texts[0] == texts[1]


async def _find_same_content(
    connection: Connection, record: VectorStoreFileRecord, link_seq: int
) -> tuple[int, str, int, int] | None:
    """Return `seq`, file id, number of chunks and bytes of a completed document with the same content, the same file first."""
    cursor = await connection.execute(
        r"""
        SELECT source.seq, source.file_id, source.chunk_count, source.usage_bytes
        FROM vector_store_files AS own
        JOIN files AS own_file ON own_file.tenant_id = own.tenant_id AND own_file.id = own.file_id
        JOIN vector_stores AS own_store ON own_store.tenant_id = own.tenant_id AND own_store.id = own.store_id
        JOIN files AS file ON file.tenant_id = own.tenant_id AND file.sha256 = own_file.sha256
            AND file.text_encoding IS NOT DISTINCT FROM own_file.text_encoding
            AND lower(substring(file.filename FROM '\.[^.]*$'))
                IS NOT DISTINCT FROM lower(substring(own_file.filename FROM '\.[^.]*$'))
        JOIN vector_store_files AS source ON source.tenant_id = file.tenant_id AND source.file_id = file.id
            AND source.status = 'completed' AND source.chunking_strategy = own.chunking_strategy
        JOIN vector_stores AS store ON store.tenant_id = source.tenant_id AND store.id = source.store_id
            AND store.embedding_model = own_store.embedding_model AND store.dimensions = own_store.dimensions
        WHERE own.tenant_id = %s AND own.seq = %s
        ORDER BY source.file_id = own.file_id DESC LIMIT 1 FOR KEY SHARE OF source SKIP LOCKED
        """,
        (record.tenant_id, link_seq),
    )
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3])


async def _copy_rows(connection: Connection, params: dict[str, Any]) -> None:
    await connection.execute(
        """
        INSERT INTO chunks (tenant_id, store_file_seq, ordinal, text, start_char, end_char, token_count, time_spans)
        SELECT tenant_id, %(link)s, ordinal, text, start_char, end_char, token_count, time_spans FROM chunks
        WHERE tenant_id = %(tenant)s AND store_file_seq = %(source)s ORDER BY ordinal
        """,
        params,
    )
    await connection.execute(
        """
        INSERT INTO chunk_vectors (tenant_id, store_seq, store_file_seq, chunk_id, dimensions, embedding)
        SELECT v.tenant_id, %(store)s, %(link)s, copy.id, v.dimensions, v.embedding FROM chunk_vectors AS v
        JOIN chunks AS original ON original.id = v.chunk_id
        JOIN chunks AS copy ON copy.store_file_seq = %(link)s AND copy.ordinal = original.ordinal
        WHERE v.tenant_id = %(tenant)s AND v.store_file_seq = %(source)s
        """,
        params,
    )
    await connection.execute(
        """
        INSERT INTO lexical_segments (tenant_id, store_file_seq, chunk_ids, languages, term_ids, term_freqs, term_totals)
        SELECT tenant_id, %(link)s,
            ARRAY(SELECT id FROM chunks WHERE store_file_seq = %(link)s ORDER BY ordinal),
            languages, term_ids, term_freqs, term_totals
        FROM lexical_segments WHERE tenant_id = %(tenant)s AND store_file_seq = %(source)s
        """,
        params,
    )


async def _new_chunk_ids(connection: Connection, count: int) -> list[int]:
    cursor = await connection.execute(
        "SELECT nextval(pg_get_serial_sequence('chunks', 'id')) FROM generate_series(1, %s)", (count,)
    )
    return [row[0] for row in await cursor.fetchall()]


async def _copy_chunks(connection: Connection, tenant_id: str, link_seq: int, ids: list[int], rows: Sequence[ChunkRow]) -> None:
    async with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY chunks (tenant_id, id, store_file_seq, ordinal, text, start_char, end_char, token_count, time_spans) "
            "FROM STDIN (FORMAT binary)"
        ) as copy,
    ):
        copy.set_types(["text", "int8", "int8", "int4", "text", "int4", "int4", "int4", "bytea"])
        for chunk_id, row in zip(ids, rows, strict=True):
            place = (row.start_char, row.end_char, row.token_count, row.time_spans)
            await copy.write_row((tenant_id, chunk_id, link_seq, row.ordinal, row.text, *place))


async def _copy_vectors(
    connection: Connection, tenant_id: str, keys: tuple[int, int, int], ids: list[int], rows: Sequence[ChunkRow]
) -> None:
    store_seq, link_seq, dimensions = keys
    async with (
        connection.cursor() as cursor,
        cursor.copy(
            "COPY chunk_vectors (tenant_id, store_seq, store_file_seq, chunk_id, dimensions, embedding) "
            "FROM STDIN (FORMAT binary)"
        ) as copy,
    ):
        copy.set_types(["text", "int8", "int8", "int8", "int4", "halfvec"])
        for chunk_id, row in zip(ids, rows, strict=True):
            await copy.write_row((tenant_id, store_seq, link_seq, chunk_id, dimensions, HalfVector(row.embedding)))


async def _publish(
    connection: Connection, record: VectorStoreFileRecord, link_seq: int, chunk_count: int, usage_bytes: int
) -> None:
    await connection.execute(
        "UPDATE files SET status = 'processed' WHERE tenant_id = %s AND id = %s AND status <> 'processed'",
        (record.tenant_id, record.file_id),
    )
    version = await count_document(connection, record.tenant_id, record.store_id, chunks=chunk_count, size_bytes=usage_bytes)
    await connection.execute(
        """
        UPDATE vector_store_files SET status = 'completed', version = %s, chunk_count = %s, usage_bytes = %s,
            last_error = NULL, lease_until = NULL, worker_id = NULL
        WHERE tenant_id = %s AND seq = %s
        """,
        (version, chunk_count, usage_bytes, record.tenant_id, link_seq),
    )
