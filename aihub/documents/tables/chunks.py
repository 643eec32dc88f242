"""Search over the chunks of completed documents."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector
from psycopg import sql
from psycopg.rows import class_row

from aihub.core.errors import NotFoundError
from aihub.core.postgres import Connection, Database
from aihub.documents.tables.filters import compile_filter
from aihub.documents.tables.records import ChunkHit, LexicalChanges, LexicalSegment

EXACT_CHUNKS = 20_000
"""Up to so many chunks every vector is compared; beyond, the HNSW index is searched."""

MAX_SCAN_TUPLES = 100_000
"""Bound of an iterative index scan that looks for chunks of few among many stores."""

READ_TIMEOUT_S = 30.0

_SEARCH = sql.SQL(
    """
    WITH best AS MATERIALIZED ({best})
    SELECT chunk.id AS chunk_id, item.file_id, item.store_id, file.filename, item.attributes, chunk.ordinal, chunk.text,
        chunk.start_char, chunk.end_char, chunk.token_count, greatest(0, least(1, 1 - best.distance)) AS score, chunk.time_spans
    FROM best
    JOIN chunks AS chunk ON chunk.id = best.chunk_id AND chunk.tenant_id = %(tenant)s
    JOIN vector_store_files AS item ON item.seq = chunk.store_file_seq AND item.tenant_id = %(tenant)s
    JOIN files AS file ON file.tenant_id = item.tenant_id AND file.id = item.file_id
    ORDER BY best.distance, chunk.id
    """
)
_EXACT = sql.SQL(
    """
    SELECT chunk_id, distance FROM (
        SELECT v.chunk_id, v.embedding <=> %(query)s AS distance FROM chunk_vectors AS v
        WHERE v.tenant_id = %(tenant)s AND v.dimensions = {dimensions} AND {scope} OFFSET 0
    ) AS candidates
    ORDER BY distance LIMIT %(limit)s
    """
)
_INDEXED = sql.SQL(
    """
    SELECT v.chunk_id, v.embedding::halfvec({dimensions}) <=> %(query)s AS distance FROM chunk_vectors AS v
    WHERE v.tenant_id = %(tenant)s AND v.dimensions = {dimensions} AND {scope}
    ORDER BY v.embedding::halfvec({dimensions}) <=> %(query)s LIMIT %(limit)s
    """
)
_IN_STORES = sql.SQL("v.store_seq = ANY(%(stores)s)")
_IN_FILES = sql.SQL("v.store_file_seq = ANY(%(links)s)")


class ChunkTable:
    """Tables `chunks`, `chunk_vectors` and `lexical_segments`; every call is scoped by tenant.

    Args:
        db: The open database.
        ef_search: Candidates HNSW keeps while it searches: recall against time.

    All methods raise `StorageUnavailableError` when PostgreSQL does not answer.
    """

    def __init__(self, db: Database, *, ef_search: int = 100) -> None:
        self._db = db
        self._ef_search = ef_search

    async def vector_search(
        self,
        tenant_id: str,
        store_ids: Sequence[str],
        query: NDArray[np.float32],
        limit: int,
        file_filter: Collection[str] | None = None,
    ) -> list[ChunkHit]:
        """Return the chunks most similar to `query`, best first; `score` is the cosine similarity cut to 0..1.

        Args:
            tenant_id: The caller's tenant; stores of others are as good as absent.
            store_ids: Stores to search together; they should share one embedding model.
            query: float32, shape (dimensions,). Chunks of other dimensions are never found.
            limit: Most hits returned.
            file_filter: Only chunks of these files (see `matching_files`); all when None.
        """
        if limit < 1 or file_filter is not None and not file_filter:
            return []
        dimensions = int(query.shape[0])
        async with self._db.transaction() as connection:
            stores, links, chunk_count = await _scope(connection, tenant_id, store_ids, file_filter)
            if chunk_count == 0:
                return []
            if chunk_count > EXACT_CHUNKS:
                await self._tune_index(connection, limit)
            best = (_INDEXED if chunk_count > EXACT_CHUNKS else _EXACT).format(
                dimensions=sql.Literal(dimensions), scope=_IN_STORES if links is None else _IN_FILES
            )
            async with connection.cursor(row_factory=class_row(ChunkHit)) as cursor:
                await cursor.execute(
                    _SEARCH.format(best=best),
                    {"tenant": tenant_id, "stores": stores, "links": links, "query": HalfVector(query), "limit": limit},
                )
                return await cursor.fetchall()

    async def fetch(self, tenant_id: str, chunk_ids: Sequence[int]) -> list[ChunkHit]:
        """Return chunks in the order asked, with score 0; those that are gone meanwhile are left out."""
        async with self._db.connection() as connection, connection.cursor(row_factory=class_row(ChunkHit)) as cursor:
            await cursor.execute(
                """
                SELECT chunk.id AS chunk_id, item.file_id, item.store_id, file.filename, item.attributes, chunk.ordinal,
                    chunk.text, chunk.start_char, chunk.end_char, chunk.token_count, 0.0::float8 AS score,
                    chunk.time_spans
                FROM chunks AS chunk
                JOIN vector_store_files AS item ON item.seq = chunk.store_file_seq AND item.tenant_id = chunk.tenant_id
                JOIN files AS file ON file.tenant_id = item.tenant_id AND file.id = item.file_id
                WHERE chunk.tenant_id = %s AND chunk.id = ANY(%s)
                """,
                (tenant_id, list(chunk_ids)),
            )
            found = {hit.chunk_id: hit for hit in await cursor.fetchall()}
        return [found[chunk_id] for chunk_id in chunk_ids if chunk_id in found]

    async def lexical_changes(self, tenant_id: str, store_id: str, after_version: int) -> LexicalChanges:
        """Return what became searchable or was removed after `after_version` (0 for everything), as one snapshot.

        Raises:
            NotFoundError: No such store.
        """
        params = {"tenant": tenant_id, "store": store_id, "after": after_version}
        async with self._db.connection() as connection:
            cursor = await connection.execute(
                "SELECT version FROM vector_stores WHERE tenant_id = %(tenant)s AND id = %(store)s", params
            )
            row = await cursor.fetchone()
        if row is None:
            raise NotFoundError(f"No vector store with id {store_id!r}.")
        if row[0] <= after_version:
            return LexicalChanges(version=row[0])
        async with self._db.transaction(timeout_s=READ_TIMEOUT_S, snapshot=True) as connection:
            return await _read_changes(connection, params)

    async def matching_files(self, tenant_id: str, store_ids: Sequence[str], filters: dict[str, Any] | None) -> set[str] | None:
        """Return ids of completed files whose attributes satisfy a filter (`aihub.core.filters`); None without a filter.

        Raises:
            InvalidRequestError: Not a filter.
        """
        if filters is None:
            return None
        condition, params = compile_filter(filters, sql.Identifier("attributes"))
        query = sql.SQL(
            "SELECT file_id FROM vector_store_files WHERE tenant_id = %s AND store_id = ANY(%s) AND status = 'completed' AND {}"
        ).format(condition)
        async with self._db.connection() as connection:
            cursor = await connection.execute(query, [tenant_id, list(store_ids), *params])
            return {row[0] for row in await cursor.fetchall()}

    async def _tune_index(self, connection: Connection, limit: int) -> None:
        await connection.execute(
            """
            SELECT set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', %s, true),
                set_config('hnsw.max_scan_tuples', %s, true)
            """,
            (str(min(1000, max(self._ef_search, 2 * limit))), str(MAX_SCAN_TUPLES)),
        )


async def _scope(
    connection: Connection, tenant_id: str, store_ids: Sequence[str], file_filter: Collection[str] | None
) -> tuple[list[int], list[int] | None, int]:
    """Return `seq` of the stores, `seq` of the allowed store files (None for all), and how many chunks these hold."""
    cursor = await connection.execute(
        "SELECT seq, chunk_count FROM vector_stores WHERE tenant_id = %s AND id = ANY(%s)", (tenant_id, list(store_ids))
    )
    rows = await cursor.fetchall()
    stores, links = [row[0] for row in rows], None
    if file_filter is not None:
        cursor = await connection.execute(
            """
            SELECT seq, chunk_count FROM vector_store_files
            WHERE tenant_id = %s AND store_id = ANY(%s) AND file_id = ANY(%s) AND status = 'completed'
            """,
            (tenant_id, list(store_ids), list(file_filter)),
        )
        rows = await cursor.fetchall()
        links = [row[0] for row in rows]
    return stores, links, sum(row[1] for row in rows)


async def _read_changes(connection: Connection, params: dict[str, Any]) -> LexicalChanges:
    cursor = await connection.execute(
        """
        SELECT version, ARRAY(
            SELECT file_id FROM vector_store_removals
            WHERE tenant_id = %(tenant)s AND store_id = %(store)s AND version > %(after)s AND %(after)s > 0
        )
        FROM vector_stores WHERE tenant_id = %(tenant)s AND id = %(store)s
        """,
        params,
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError(f"No vector store with id {params['store']!r}.")
    async with connection.cursor(row_factory=class_row(LexicalSegment), binary=True) as segments:
        await segments.execute(
            """
            SELECT item.file_id, item.version, s.chunk_ids, s.languages, s.term_ids, s.term_freqs, s.term_totals
            FROM vector_store_files AS item JOIN lexical_segments AS s ON s.store_file_seq = item.seq
            WHERE item.tenant_id = %(tenant)s AND item.store_id = %(store)s AND item.version > %(after)s
                AND item.status = 'completed'
            ORDER BY item.version
            """,
            params,
        )
        return LexicalChanges(version=row[0], added=await segments.fetchall(), removed_file_ids=row[1])
