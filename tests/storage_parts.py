"""Small builders for tests that store documents."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.core.postgres import Database
from aihub.documents.tables.files import FileTable
from aihub.documents.tables.records import Attributes, ChunkRow, FileRecord, VectorStoreFileRecord, VectorStoreRecord
from aihub.documents.tables.vector_store_files import VectorStoreFileTable
from aihub.documents.tables.vector_stores import VectorStoreTable

DIMENSIONS = 384
CHUNKING: dict[str, Any] = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 0}}


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def unit_vectors(count: int, dimensions: int = DIMENSIONS, seed: int = 0) -> NDArray[np.float32]:
    """Random directions, shape (count, dimensions), each of norm 1."""
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def chunk_rows(texts: Sequence[str], vectors: NDArray[np.float32] | None = None) -> list[ChunkRow]:
    """One chunk per text, lying one behind the other with a space between."""
    embeddings = unit_vectors(len(texts)) if vectors is None else vectors
    rows, start = [], 0
    for ordinal, (text, embedding) in enumerate(zip(texts, embeddings, strict=True)):
        rows.append(
            ChunkRow(
                ordinal=ordinal,
                text=text,
                start_char=start,
                end_char=start + len(text),
                token_count=len(text.split()),
                language="vi",
                term_ids=np.array([ordinal + 1, 1000], dtype="<i4").tobytes(),
                term_freqs=np.array([1, 2], dtype="<u2").tobytes(),
                term_total=3,
                embedding=embedding,
            )
        )
        start += len(text) + 1
    return rows


class Documents:
    """The three tables of one tenant."""

    def __init__(self, database: Database, tenant: str) -> None:
        self.tenant = tenant
        self.files = FileTable(database)
        self.stores = VectorStoreTable(database)
        self.links = VectorStoreFileTable(database)

    async def store(self, *, dimensions: int = DIMENSIONS, model: str = "test-model") -> VectorStoreRecord:
        return await self.stores.create(
            self.tenant,
            name="Kho",
            description=None,
            metadata={},
            embedding_model=model,
            dimensions=dimensions,
            expires_after=None,
        )

    async def file(self, data: bytes = b"Xin ch\xc3\xa0o", filename: str = "a.txt") -> FileRecord:
        return await self.files.create(self.tenant, filename, "assistants", pieces(data), 2**23)

    async def attach(self, store_id: str, file_id: str, attributes: Attributes | None = None) -> VectorStoreFileRecord:
        return await self.links.attach(self.tenant, store_id, file_id, attributes=attributes or {}, chunking_strategy=CHUNKING)

    async def claim(self, lease_s: float = 60.0, worker: str = "w") -> VectorStoreFileRecord:
        record = await self.links.claim(lease_s, worker)
        assert record is not None
        assert record.tenant_id == self.tenant
        return record

    async def indexed(
        self,
        store_id: str,
        texts: Sequence[str],
        vectors: NDArray[np.float32] | None = None,
        attributes: Attributes | None = None,
    ) -> VectorStoreFileRecord:
        """A completed document with one chunk per text."""
        file = await self.file(" ".join(texts).encode())
        await self.attach(store_id, file.id, attributes)
        assert await self.links.complete(await self.claim(), " ".join(texts), "txt", chunk_rows(texts, vectors))
        return await self.links.get(self.tenant, store_id, file.id)
