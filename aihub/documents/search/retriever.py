"""Chunks that answer a question: vectors and BM25, fused by reciprocal rank with a weight for the question's language."""

import asyncio
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import InvalidRequestError
from aihub.documents.search.analysis import analyse_query
from aihub.documents.search.bm25 import LexicalIndexCache, match_query, rank
from aihub.documents.search.fusion import descending, fuse, relevance
from aihub.documents.search.postings import PostingsBlock
from aihub.documents.search.query_language import language_counts, query_language, store_languages, vector_weight
from aihub.documents.tables.records import ChunkHit, VectorStoreRecord
from aihub.embeddings.service import Embedder

CANDIDATES = 100
"""Chunks each ranker gives to the fusion, at least."""


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """A found chunk.

    Attributes:
        score: 0 to 1. In hybrid search it is the relevance (`aihub.documents.search.fusion`) and compares across queries; else
            the score of the one ranker.
        text_score: Share of the most BM25 could give, None when BM25 did not find it.
        vector_score: Cosine similarity cut to 0..1, None when the vectors did not find it.
    """

    hit: ChunkHit
    score: float
    text_score: float | None
    vector_score: float | None


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Chunks, best first, and the milliseconds of each stage.

    Stages: `embed` the question; `vector` and `text` search, at the same time; `fetch` what only BM25 found; `search` is
    everything but `embed`.
    """

    hits: list[ScoredChunk]
    timings_ms: dict[str, float] = field(default_factory=dict)


class Chunks(Protocol):
    """`aihub.documents.tables.chunks.ChunkTable`."""

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
    """Searches vector stores.

    Args:
        chunks: Vectors and texts.
        lexical: BM25 indexes over the same chunks.
        embedder: The model the stores were built with.
    """

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
        """Return the best `top_k` chunks of the stores; a chunk of a file that is in several of them once.

        Args:
            tenant_id: The caller's tenant.
            stores: Searched together; one embedding model.
            query: The question; for vectors it must fit the embedder.
            top_k: Most chunks returned.
            mode: `hybrid`, `vector` or `text`.
            filters: OpenAI's attribute filter; only chunks of matching files are found.

        Raises:
            InvalidRequestError: An unknown mode, or a query the embedder cannot take.
            NotFoundError: A store was deleted meanwhile.
            StorageUnavailableError: PostgreSQL does not answer.
            ModelUnavailableError: The embedder does not answer, and `mode` is not `text`.
        """
        if mode not in {"hybrid", "vector", "text"}:
            raise InvalidRequestError("mode is `hybrid`, `vector` or `text`.", param="mode")
        watch = _Stopwatch()
        started_s = time.perf_counter()
        store_ids = [store.id for store in stores]
        wanted = top_k * len(store_ids)  # every store may hold the same chunks
        limit = max(CANDIDATES, wanted) if mode == "hybrid" else wanted
        files = await self._chunks.matching_files(tenant_id, store_ids, filters)
        search = _Search(tenant_id, store_ids, query, limit, files)
        found = await self._find(search, mode, watch)
        with watch.measure("fetch"):
            hits = await self._fetch(tenant_id, found.ranked[:wanted], found.vectors)
        total_ms = 1000 * (time.perf_counter() - started_s)
        timings_ms = {**watch.timings_ms, "search": round(total_ms - watch.timings_ms.get("embed", 0.0), 2)}
        return Retrieval(_scored(hits, found)[:top_k], timings_ms)

    async def _find(self, search: "_Search", mode: str, watch: "_Stopwatch") -> "_Found":
        if mode == "vector":
            vectors = await self._by_vectors(search, watch)
            return _Found([(hit.chunk_id, hit.score) for hit in vectors], vectors, {})
        if mode == "text":
            text, _ = await self._by_text(search, watch)
            return _Found(text, [], dict(text))
        try:
            async with asyncio.TaskGroup() as both:
                by_text = both.create_task(self._by_text(search, watch))
                by_vectors = both.create_task(self._by_vectors(search, watch))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        text, weight = by_text.result()
        vectors = by_vectors.result()
        cosines = [(hit.chunk_id, hit.score) for hit in vectors]
        ranked = [chunk_id for chunk_id, _ in fuse(text, cosines, vector_weight=weight)]
        scores = _relevance(ranked, dict(text), dict(cosines), weight)
        return _Found([(chunk_id, scores[chunk_id]) for chunk_id in ranked], vectors, dict(text))

    async def _by_vectors(self, search: "_Search", watch: "_Stopwatch") -> list[ChunkHit]:
        with watch.measure("embed"):
            embedding = (await self._embedder.embed([search.query])).vectors[0]
        with watch.measure("vector"):
            return await self._chunks.vector_search(search.tenant_id, search.store_ids, embedding, search.limit, search.files)

    async def _by_text(self, search: "_Search", watch: "_Stopwatch") -> tuple[list[tuple[int, float]], float]:
        """Return (chunk id, score) best first, and the weight vectors deserve for this query in these stores."""
        with watch.measure("text"):
            blocks = [block for store_id in search.store_ids for block in await self._lexical.blocks(search.tenant_id, store_id)]
            model_info = await self._embedder.model_info()
            return await asyncio.to_thread(_search_text, blocks, search, model_info.languages)

    async def _fetch(self, tenant_id: str, ranked: list[tuple[int, float]], vectors: list[ChunkHit]) -> list[ChunkHit]:
        """Return the chunks in order; those deleted meanwhile are left out."""
        hits = {hit.chunk_id: hit for hit in vectors}
        missing = [chunk_id for chunk_id, _ in ranked if chunk_id not in hits]
        if missing:
            hits |= {hit.chunk_id: hit for hit in await self._chunks.fetch(tenant_id, missing)}
        return [hits[chunk_id] for chunk_id, _ in ranked if chunk_id in hits]


@dataclass(frozen=True, slots=True)
class _Search:
    tenant_id: str
    store_ids: list[str]
    query: str
    limit: int
    files: set[str] | None


@dataclass(frozen=True, slots=True)
class _Found:
    """Chunk ids with final scores, best first, and what each ranker gave."""

    ranked: list[tuple[int, float]]
    vectors: list[ChunkHit]
    text: dict[int, float]


class _Stopwatch:
    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started_s = time.perf_counter()
        yield
        self.timings_ms[stage] = round(1000 * (time.perf_counter() - started_s), 2)


def _search_text(
    blocks: list[PostingsBlock], search: _Search, known_languages: tuple[str, ...]
) -> tuple[list[tuple[int, float]], float]:
    languages = store_languages(language_counts(blocks))
    query = match_query(blocks, analyse_query(search.query, languages))
    weight = vector_weight(query_language(blocks, query, languages), known_languages)
    return rank(blocks, query, search.limit, search.files), weight


def _relevance(ranked: list[int], text: dict[int, float], cosines: dict[int, float], weight: float) -> dict[int, float]:
    """Score a ranking; a chunk the vectors did not find is no closer than the last that they found."""
    least = min(cosines.values(), default=0.0)
    known = {chunk_id: relevance(cosines.get(chunk_id, least), text.get(chunk_id, 0.0), weight) for chunk_id in ranked}
    return descending(ranked, known)


def _scored(hits: list[ChunkHit], found: _Found) -> list[ScoredChunk]:
    scores = dict(found.ranked)
    vector_scores = {hit.chunk_id: hit.score for hit in found.vectors}
    unique: dict[tuple[str, int, int], ChunkHit] = {}
    for hit in hits:
        unique.setdefault((hit.file_id, hit.start_char, hit.end_char), hit)
    return [
        ScoredChunk(hit, scores[hit.chunk_id], found.text.get(hit.chunk_id), vector_scores.get(hit.chunk_id))
        for hit in unique.values()
    ]
