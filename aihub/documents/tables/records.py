"""Rows as the rest of the product sees them: frozen, typed, with times as Unix seconds."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

FileStatus = Literal["uploaded", "processed", "error"]
StoreStatus = Literal["expired", "in_progress", "completed"]
StoreFileStatus = Literal["in_progress", "completed", "failed", "cancelled"]
Attributes = dict[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One uploaded file.

    Attributes:
        sha256: Lower-case hex digest of its bytes.
        text_encoding: Python's codec for the encoding that the upload named.
    """

    id: str
    tenant_id: str
    filename: str
    purpose: str
    size_bytes: int
    sha256: str
    status: FileStatus
    created_at: int
    expires_at: int | None = None
    text_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class FileCounts:
    """Files of one vector store by status."""

    in_progress: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class VectorStoreRecord:
    """One vector store.

    Attributes:
        status: `expired` once `expires_at` has passed, else `in_progress` while any file is, else `completed`.
        version: Grows by one with every document that becomes searchable, gets other attributes or is removed, in commit order.
        expires_after: `{"anchor": "last_active_at", "days": n}`.
        chunk_count: Searchable chunks.
    """

    id: str
    tenant_id: str
    name: str | None
    description: str | None
    metadata: dict[str, str]
    embedding_model: str
    dimensions: int
    status: StoreStatus
    version: int
    usage_bytes: int
    created_at: int
    last_active_at: int | None
    expires_after: dict[str, Any] | None
    expires_at: int | None
    file_counts: FileCounts
    chunk_count: int


@dataclass(frozen=True, slots=True)
class StoreVersion:
    """What tells a vector store's content from that of another time.

    Attributes:
        is_unused: Its last use was noted longer than a minute ago.
    """

    id: str
    version: int
    embedding_model: str
    is_expired: bool
    is_unused: bool


class StoreChanges(TypedDict, total=False):
    """Fields of a vector store to change; an absent key stays, None clears."""

    name: str | None
    metadata: dict[str, str] | None
    expires_after: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class VectorStoreFileRecord:
    """A file as one vector store knows it.

    Attributes:
        last_error: `{"code", "message"}` when `status` is `failed`.
        version: The store's version at which the file became searchable; None before.
        attempt: How often the file was claimed for processing; a claim that was overtaken can write nothing.
        text_encoding: Python's codec for the encoding that the upload named.
    """

    file_id: str
    store_id: str
    tenant_id: str
    filename: str
    status: StoreFileStatus
    last_error: dict[str, str] | None
    attributes: Attributes
    chunking_strategy: dict[str, Any]
    usage_bytes: int
    chunk_count: int
    created_at: int
    version: int | None
    attempt: int = 0
    text_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class FileBatchRecord:
    """Files that were attached to a store together, counted by what has become of them.

    Attributes:
        is_cancelled: Whether it was cancelled while files of it were in progress.
    """

    id: str
    store_id: str
    created_at: int
    is_cancelled: bool
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int

    @property
    def status(self) -> StoreFileStatus:
        """`failed` when none of its files could be indexed."""
        if self.is_cancelled:
            return "cancelled"
        if self.in_progress:
            return "in_progress"
        return "failed" if self.total and self.failed == self.total else "completed"


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRow:
    """A chunk to be stored.

    Attributes:
        text: Exactly `document_text[start_char:end_char]`.
        language: ISO 639-1 code, or `und`.
        term_ids: int32 little-endian array of distinct terms.
        term_freqs: uint16 little-endian array, one per term.
        term_total: Words in the chunk.
        embedding: float32, shape (dimensions,), norm 1.
        time_spans: When its words were said (`aihub.documents.time_spans`); None where the document is no recording.
    """

    ordinal: int
    text: str
    start_char: int
    end_char: int
    token_count: int
    language: str
    term_ids: bytes
    term_freqs: bytes
    term_total: int
    embedding: NDArray[np.float32]
    time_spans: bytes | None = None


@dataclass(frozen=True, slots=True)
class ChunkHit:
    """A chunk that was found; `score` is the cosine similarity cut to 0..1, or 0 when fetched by id.

    Attributes:
        time_spans: When its words were said (`aihub.documents.time_spans`); None where the document is no recording.
    """

    chunk_id: int
    file_id: str
    store_id: str
    filename: str
    attributes: Attributes
    ordinal: int
    text: str
    start_char: int
    end_char: int
    token_count: int
    score: float
    time_spans: bytes | None = None


@dataclass(frozen=True, slots=True)
class LexicalSegment:
    """What the lexical index needs of one searchable document; the lists run in parallel, one item per chunk."""

    file_id: str
    version: int
    chunk_ids: list[int]
    languages: list[str]
    term_ids: list[bytes]
    term_freqs: list[bytes]
    term_totals: list[int]


@dataclass(frozen=True, slots=True)
class LexicalChanges:
    """What happened to a store after a version; apply `removed_file_ids` first, then `added`.

    Attributes:
        version: The store's version these changes lead to; ask from here next time.
        added: Ordered by version. A file that was removed and attached again is in both lists.
    """

    version: int
    added: list[LexicalSegment] = field(default_factory=list)
    removed_file_ids: list[str] = field(default_factory=list)
