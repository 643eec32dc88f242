"""Stored rows to the objects of OpenAI's API, and what a vector store and the active embedding model must agree on."""

from collections.abc import Sequence
from typing import Any, TypeVar

from aihub.core.errors import ConflictError
from aihub.core.schemas import Page
from aihub.documents.schemas import (
    AutoChunking,
    ExpiresAfter,
    FileBatchObject,
    FileCounts,
    FileObject,
    LastError,
    RecordingSearchResult,
    SearchResult,
    StaticChunking,
    TextContent,
    VectorStoreFileObject,
    VectorStoreObject,
)
from aihub.documents.search.retriever import ScoredChunk
from aihub.documents.tables.records import FileBatchRecord, FileRecord, VectorStoreFileRecord, VectorStoreRecord
from aihub.documents.time_spans import time_fields
from aihub.embeddings.service import EmbedderInfo

Item = TypeVar("Item", FileObject, VectorStoreObject, VectorStoreFileObject)


def file_object(record: FileRecord) -> FileObject:
    """A stored file needs no processing of its own, so clients that wait for `processed` need not wait."""
    return FileObject(
        id=record.id,
        bytes=record.size_bytes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        filename=record.filename,
        purpose=record.purpose,
        status="error" if record.status == "error" else "processed",
    )


def store_object(record: VectorStoreRecord) -> VectorStoreObject:
    counts = record.file_counts
    return VectorStoreObject(
        id=record.id,
        created_at=record.created_at,
        name=record.name or "",
        description=record.description,
        usage_bytes=record.usage_bytes,
        file_counts=FileCounts(
            in_progress=counts.in_progress,
            completed=counts.completed,
            failed=counts.failed,
            cancelled=counts.cancelled,
            total=counts.total,
        ),
        status=record.status,
        expires_after=None if record.expires_after is None else ExpiresAfter.model_validate(record.expires_after),
        expires_at=record.expires_at,
        last_active_at=record.last_active_at,
        metadata=record.metadata,
    )


def store_file_object(record: VectorStoreFileRecord) -> VectorStoreFileObject:
    return VectorStoreFileObject(
        id=record.file_id,
        created_at=record.created_at,
        vector_store_id=record.store_id,
        status=record.status,
        last_error=None if record.last_error is None else LastError.model_validate(record.last_error),
        usage_bytes=record.usage_bytes,
        chunking_strategy=StaticChunking.model_validate(record.chunking_strategy),
        attributes=record.attributes,
    )


def file_batch_object(record: FileBatchRecord) -> FileBatchObject:
    return FileBatchObject(
        id=record.id,
        created_at=record.created_at,
        vector_store_id=record.store_id,
        status=record.status,
        file_counts=FileCounts(
            in_progress=record.in_progress,
            completed=record.completed,
            failed=record.failed,
            cancelled=record.cancelled,
            total=record.total,
        ),
    )


def search_result(chunk: ScoredChunk) -> SearchResult:
    hit = chunk.hit
    result = SearchResult(
        file_id=hit.file_id,
        filename=hit.filename,
        score=chunk.score,
        attributes=hit.attributes,
        content=[TextContent(text=hit.text)],
    )
    times = time_fields(hit.time_spans, hit.start_char, hit.end_char)
    return RecordingSearchResult(**dict(result), **times) if times else result


def page(items: Sequence[Item], has_more: bool) -> Page[Item]:
    """One page of a listing; its first and last id are the cursors of the neighbouring pages."""
    return Page(
        data=list(items),
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
        has_more=has_more,
    )


AUTO_MAX_TOKENS = 512
# Room for special tokens, and for a text to count a little differently alone than inside its document.
AUTO_MARGIN_TOKENS = 16
AUTO_OVERLAP_SHARE = 8


def require_same_model(store: VectorStoreRecord, info: EmbedderInfo) -> None:
    """Refuse to mix vectors of two models.

    Raises:
        ConflictError: The store was built with another model than the active one; the message names both.
    """
    if (store.embedding_model, store.dimensions) != (info.model_id, info.dimensions):
        raise ConflictError(
            f"Vector store {store.id} was built with embedding model {store.embedding_model!r} ({store.dimensions} dimensions), "
            f"but {info.model_id!r} ({info.dimensions}) is active. Create a new vector store and attach the files to it, "
            f"or start the hub with {store.embedding_model!r}.",
            code="embedding_model_mismatch",
        )


def chunking_for(strategy: AutoChunking | StaticChunking | None, info: EmbedderInfo) -> dict[str, Any]:
    """Return the sizes to use, in OpenAI's `static` form.

    `auto` (and none) takes chunks the embedder reads whole, at most 512 tokens, an eighth of them repeated from the chunk before.
    """
    if isinstance(strategy, StaticChunking):
        return strategy.model_dump()
    size = max(100, min(AUTO_MAX_TOKENS, info.max_tokens - AUTO_MARGIN_TOKENS))
    return {
        "type": "static",
        "static": {"max_chunk_size_tokens": size, "chunk_overlap_tokens": size // AUTO_OVERLAP_SHARE},
    }
