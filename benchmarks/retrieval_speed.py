"""Retrieval at 100,000 chunks: p50 and p95 of each mode, and recall@10 of the vector search against exact search.

Chunks are made: vectors in random clusters, texts of words with a natural (Zipf) distribution. They are stored through the hub's
own tables and searched through its own retriever with the real embedder.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aihub.documents.search.analysis import analyse
from aihub.documents.tables.files import FileTable
from aihub.documents.tables.records import ChunkRow, VectorStoreRecord
from aihub.documents.tables.vector_store_files import VectorStoreFileTable
from aihub.documents.tables.vector_stores import VectorStoreTable
from benchmarks.document_hub import DocumentHub, document_hub

CHUNKS_PER_FILE = 1000
WORDS_PER_CHUNK = 120
VOCABULARY = 50_000
CLUSTERS = 500
QUERIES = 200


def make_vectors(generator: np.random.Generator, count: int, dimensions: int) -> NDArray[np.float32]:
    """Unit vectors around `CLUSTERS` random centres, as texts of related topics have them."""
    centres = generator.normal(size=(CLUSTERS, dimensions))
    vectors = centres[generator.integers(CLUSTERS, size=count)] + 0.7 * generator.normal(size=(count, dimensions))
    unit: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def make_text(generator: np.random.Generator, words: int) -> str:
    return " ".join(f"w{rank}" for rank in np.minimum(generator.zipf(1.3, size=words), VOCABULARY))


async def fill(hub: DocumentHub, chunks: int, vectors: NDArray[np.float32]) -> VectorStoreRecord:
    """Store made chunks through the tables, as the ingest worker does."""
    generator = np.random.default_rng(1)
    stores, store_files, files = VectorStoreTable(hub.database), VectorStoreFileTable(hub.database), FileTable(hub.database)
    tenant = hub.principal.tenant_id
    model_info = await hub.embedder.model_info()
    store = await stores.create(
        tenant,
        name="speed",
        description=None,
        metadata={},
        embedding_model=model_info.model_id,
        dimensions=model_info.dimensions,
        expires_after=None,
    )
    for start in tqdm(range(0, chunks, CHUNKS_PER_FILE), desc="storing chunks", unit="file"):
        file = await files.create(tenant, f"{start}.txt", "assistants", _no_bytes(), 1)
        await store_files.attach(tenant, store.id, file.id, attributes={}, chunking_strategy={"type": "auto"})
        record = await store_files.claim(600.0, "bench")
        if record is None:
            raise SystemExit("another worker took the file")
        rows = [
            make_row(ordinal, make_text(generator, WORDS_PER_CHUNK), vectors[start + ordinal])
            for ordinal in range(min(CHUNKS_PER_FILE, chunks - start))
        ]
        await store_files.complete(record, "", "txt", rows)
    return await stores.get(tenant, store.id)


def make_row(ordinal: int, text: str, vector: NDArray[np.float32]) -> ChunkRow:
    terms = analyse(text, document_language="en")
    return ChunkRow(
        ordinal=ordinal,
        text=text,
        start_char=0,
        end_char=0,
        token_count=WORDS_PER_CHUNK,
        language="en",
        term_ids=terms.term_ids.astype("<i4").tobytes(),
        term_freqs=terms.term_freqs.astype("<u2").tobytes(),
        term_total=terms.total,
        embedding=vector,
    )


async def _no_bytes() -> AsyncIterator[bytes]:
    yield b""


async def recall(hub: DocumentHub, store: VectorStoreRecord, vectors: NDArray[np.float32]) -> float:
    """Mean share of the exact ten nearest that the index finds."""
    generator = np.random.default_rng(2)
    queries = vectors[generator.integers(len(vectors), size=50)] + 0.02 * generator.normal(size=(50, vectors.shape[1]))
    found = 0
    for query in queries.astype(np.float32):
        exact = np.sort(vectors @ query)[-10:]
        hits = await hub.chunks.vector_search(hub.principal.tenant_id, [store.id], query / np.linalg.norm(query), 10)
        # Half precision moves a score by up to a thousandth.
        found += sum(hit.score * np.linalg.norm(query) >= exact[0] - 1e-3 for hit in hits)
    return found / 500


async def run(chunks: int) -> None:
    async with document_hub(works=False) as hub:
        vectors = make_vectors(np.random.default_rng(0), chunks, (await hub.embedder.model_info()).dimensions)
        store = await fill(hub, chunks, vectors)
        generator = np.random.default_rng(3)
        print(f"retrieval at {chunks} chunks{'':<24} {'p50 ms':>8} {'p95 ms':>8}  aim p95 50 ms", flush=True)
        for mode in ("text", "vector", "hybrid"):
            times = []
            for query in [make_text(generator, 8) for _ in range(QUERIES + 5)]:
                started_s = time.perf_counter()
                await hub.retriever.retrieve(hub.principal.tenant_id, [store], query, top_k=10, mode=mode)
                times.append(1000 * (time.perf_counter() - started_s))
            # The first few load the lexical index.
            print(f"  {mode:<48} {np.percentile(times[5:], 50):>8.1f} {np.percentile(times[5:], 95):>8.1f}", flush=True)
        print(f"  recall@10 of the index against exact search {await recall(hub, store, vectors):>22.3f}  aim 0.95", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000)
    asyncio.run(run(parser.parse_args(arguments).chunks))


if __name__ == "__main__":
    main()
