"""Chunks that answer a question: vectors and BM25, fused by reciprocal rank with a weight for the question's language."""

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aihub.engines.base import Embedder
from aihub.errors import InvalidRequestError
from aihub.retrieval.analysis import analyse_query
from aihub.retrieval.bm25 import language_counts, search_blocks
from aihub.retrieval.cache import LexicalIndexCache
from aihub.retrieval.fusion import fuse
from aihub.retrieval.language import query_language, store_languages, vector_weight
from aihub.retrieval.postings import PostingsBlock
from aihub.storage.records import ChunkHit, VectorStoreRecord

CANDIDATES = 100
"""Chunks each ranker gives to the fusion, at least."""


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """A found chunk.

    Attributes:
        score: 0 to 1; compares the chunks of one query.
        text_score: Share of the most BM25 could give, None when BM25 did not find it.
        vector_score: Cosine similarity cut to 0..1, None when the vectors did not find it.
    """

    hit: ChunkHit
    score: float
    text_score: float | None
    vector_score: float | None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Chunks, best first, and the milliseconds of each stage."""

    hits: list[ScoredChunk]
    timings_ms: dict[str, float] = field(default_factory=dict)


class Chunks(Protocol):
    """`aihub.storage.chunks.ChunkTable`."""

    async def vector_search(
        self,
        tenant_id: str,
        store_ids: Sequence[str],
        query: NDArray[np.float32],
        limit: int,
        file_filter: Collection[str] | None = None,
    ) -> list[ChunkHit]: ...

    async def fetch(self, tenant_id: str, chunk_ids: Sequence[int]) -> list[ChunkHit]: ...

    async def matching_files(
        self, tenant_id: str, store_ids: Sequence[str], filters: dict[str, Any] | None
    ) -> set[str] | None: ...


class Retriever:
    """Searches vector stores."""

    def __init__(self, chunks: Chunks, lexical: LexicalIndexCache, embedder: Embedder) -> None:
        self._chunks = chunks
        self._lexical = lexical
        self._embedder = embedder

    async def retrieve(
        self,
        tenant_id: str,
        stores: list[VectorStoreRecord],
        query: str,
        *,
        top_k: int,
        mode: str,
        filters: dict[str, Any] | None = None,
    ) -> Retrieval:
        """Return the best `top_k` chunks of the stores.

        Args:
            tenant_id: The caller's tenant.
            stores: Searched together; one embedding model.
            query: The question; for vectors it must fit the embedder.
            top_k: Most chunks returned.
            mode: `hybrid`, `vector` or `text`.
            filters: OpenAI's attribute filter; only chunks of matching files are found.

        Raises:
            InvalidRequestError: An unknown mode, or a query the embedder cannot take.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        if mode not in {"hybrid", "vector", "text"}:
            raise InvalidRequestError("mode is `hybrid`, `vector` or `text`.", param="mode")
        store_ids = [store.id for store in stores]
        files = await self._chunks.matching_files(tenant_id, store_ids, filters)
        limit = top_k if mode != "hybrid" else max(CANDIDATES, 2 * top_k)
        search = _Search(tenant_id, store_ids, query, limit, files)
        started_s = time.perf_counter()
        timings: dict[str, float] = {}
        text: list[tuple[int, float]] = []
        vectors: list[ChunkHit] = []
        weight = 1.0
        if mode == "vector":
            vectors = await self._by_vectors(search, timings)
        elif mode == "text":
            text, _ = await self._by_text(search, timings)
        else:
            (text, weight), vectors = await asyncio.gather(self._by_text(search, timings), self._by_vectors(search, timings))
        ranked = fuse([(1.0, [chunk_id for chunk_id, _ in text]), (weight, [hit.chunk_id for hit in vectors])])[:top_k]
        hits = await self._scored(tenant_id, ranked, dict(text), vectors, mode)
        timings["search"] = _ms_since(started_s) - timings.get("embed", 0.0)
        return Retrieval(hits, timings)

    async def _by_vectors(self, search: "_Search", timings: dict[str, float]) -> list[ChunkHit]:
        started_s = time.perf_counter()
        embedding = (await self._embedder.embed([search.query])).vectors[0]
        timings["embed"] = _ms_since(started_s)
        started_s = time.perf_counter()
        hits = await self._chunks.vector_search(search.tenant_id, search.store_ids, embedding, search.limit, search.files)
        timings["vector"] = _ms_since(started_s)
        return hits

    async def _by_text(self, search: "_Search", timings: dict[str, float]) -> tuple[list[tuple[int, float]], float]:
        """Return (chunk id, score) best first, and the weight vectors deserve for this query in these stores."""
        started_s = time.perf_counter()
        blocks = [block for store_id in search.store_ids for block in await self._lexical.blocks(search.tenant_id, store_id)]
        card = await self._embedder.card()
        found = await asyncio.to_thread(_search_text, blocks, search, card.languages)
        timings["text"] = _ms_since(started_s)
        return found

    async def _scored(
        self, tenant_id: str, ranked: list[tuple[int, float]], text: dict[int, float], vectors: list[ChunkHit], mode: str
    ) -> list[ScoredChunk]:
        by_id = {hit.chunk_id: hit for hit in vectors}
        missing = [chunk_id for chunk_id, _ in ranked if chunk_id not in by_id]
        vector_scores = {hit.chunk_id: hit.score for hit in vectors}
        if missing:
            by_id |= {hit.chunk_id: hit for hit in await self._chunks.fetch(tenant_id, missing)}
        single = vector_scores if mode == "vector" else text if mode == "text" else {}
        return [
            ScoredChunk(
                hit=by_id[chunk_id],
                score=single.get(chunk_id, score),
                text_score=text.get(chunk_id),
                vector_score=vector_scores.get(chunk_id),
            )
            for chunk_id, score in ranked
            if chunk_id in by_id
        ]


@dataclass(frozen=True, slots=True)
class _Search:
    tenant_id: str
    store_ids: list[str]
    query: str
    limit: int
    files: set[str] | None


def _search_text(
    blocks: list[PostingsBlock], search: _Search, known_languages: tuple[str, ...]
) -> tuple[list[tuple[int, float]], float]:
    languages = store_languages(language_counts(blocks))
    weight = vector_weight(query_language(search.query, languages), known_languages)
    found = search_blocks(blocks, analyse_query(search.query, languages), search.limit, search.files)
    return found, weight


def _ms_since(started_s: float) -> float:
    return round(1000 * (time.perf_counter() - started_s), 2)
