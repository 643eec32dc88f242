"""Wire types of `/v1/files` and `/v1/vector_stores`, in OpenAI's shapes.

Bodies ignore unknown fields, as newer OpenAI clients send some; objects inside them that change what is stored or found
(`filters`, `chunking_strategy`, `expires_after`) refuse unknown keys.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, model_validator

from aihub.core.filters import AttributeKey, AttributeValue, Filters, one_message
from aihub.core.schemas import ClosedModel, LenientModel, Metadata, ObjectId, ResponseModel
from aihub.documents.parsing.encodings.declared import codec_of

FilePurpose = Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]
"""What a file is for. Only a label: any file may be attached to a vector store."""

MIN_EXPIRY_S = 3_600
MAX_EXPIRY_S = 2_592_000


class FileExpiresAfter(BaseModel):
    """When an uploaded file deletes itself."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


def _codec(label: str | None) -> str | None:
    if not label:
        return None
    codec = codec_of(label)
    if codec is None:
        raise ValueError(
            "no encoding that is known; use a name such as utf-8, windows-1254, gbk or shift_jis, or convert the file"
        )
    return codec


class FileFields(BaseModel):
    """The text fields of a multipart upload; values arrive as strings, `encoding` becomes Python's codec.

    Raises:
        pydantic.ValidationError: A field is missing, unknown in its values or out of bounds.
    """

    model_config = ConfigDict(extra="ignore")

    purpose: FilePurpose
    expires_after: FileExpiresAfter | None = None
    encoding: Annotated[str | None, AfterValidator(_codec)] = None


class FileObject(ResponseModel):
    """One uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None = None


MAX_PAIRS = 16
MIN_CHUNK_TOKENS = 100
MAX_CHUNK_TOKENS = 4096
MAX_FILES_AT_CREATION = 500
MAX_BATCH_FILES = 2000
MAX_QUERIES = 8
MAX_QUERY_CHARS = 8192
MAX_RESULTS = 50

Attributes = Annotated[dict[AttributeKey, AttributeValue], Field(max_length=MAX_PAIRS)]
"""At most 16 pairs searchable by `filters`: strings up to 512 characters, finite numbers, booleans."""

SearchMode = Literal["hybrid", "vector", "text"]
StoreName = Annotated[StrictStr, Field(max_length=256)]
Query = Annotated[StrictStr, Field(min_length=1, max_length=MAX_QUERY_CHARS)]
FileStatus = Literal["in_progress", "completed", "failed", "cancelled"]


class ExpiresAfter(ClosedModel):
    """A store deletes itself when nobody used it for this many days."""

    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365)]


class AutoChunking(ClosedModel):
    """Chunk sizes that fit the embedder."""

    type: Literal["auto"]


class StaticChunkingSizes(ClosedModel):
    """Sizes in the embedder's tokens; the overlap is at most half of a chunk."""

    max_chunk_size_tokens: Annotated[int, Field(ge=MIN_CHUNK_TOKENS, le=MAX_CHUNK_TOKENS)]
    chunk_overlap_tokens: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _overlap_is_at_most_half(self) -> Self:
        if self.chunk_overlap_tokens * 2 > self.max_chunk_size_tokens:
            raise ValueError("must have chunk_overlap_tokens of at most half of max_chunk_size_tokens")
        return self


class StaticChunking(ClosedModel):
    type: Literal["static"]
    static: StaticChunkingSizes


ChunkingStrategy = Annotated[AutoChunking | StaticChunking, Field(discriminator="type")]


class VectorStoreCreate(LenientModel):
    name: StoreName | None = None
    description: Annotated[StrictStr, Field(max_length=512)] | None = None
    file_ids: Annotated[list[ObjectId], Field(max_length=MAX_FILES_AT_CREATION)] | None = None
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class VectorStoreUpdate(LenientModel):
    """Fields that are absent stay as they are; `null` clears metadata and the expiry."""

    name: StoreName | None = None
    expires_after: ExpiresAfter | None = None
    metadata: Metadata | None = None


class VectorStoreFileCreate(LenientModel):
    file_id: ObjectId
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class FileBatchCreate(LenientModel):
    """Either `file_ids`, with attributes and chunking for all of them, or `files`, each with its own."""

    file_ids: Annotated[list[ObjectId], Field(min_length=1, max_length=MAX_BATCH_FILES)] | None = None
    files: Annotated[list[VectorStoreFileCreate], Field(min_length=1, max_length=MAX_BATCH_FILES)] | None = None
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None

    @model_validator(mode="after")
    def _names_its_files_once(self) -> Self:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("must have either file_ids or files")
        if self.files is not None and len({file.file_id for file in self.files}) < len(self.files):
            raise ValueError("must name each file once in files")
        return self

    def each_file(self) -> list[VectorStoreFileCreate]:
        """Return what `POST .../files` would take for each file, in order; a file id that is repeated counts once."""
        if self.files is not None:
            return self.files
        return [
            VectorStoreFileCreate(file_id=file_id, attributes=self.attributes, chunking_strategy=self.chunking_strategy)
            for file_id in dict.fromkeys(self.file_ids or [])
        ]


class VectorStoreFileUpdate(LenientModel):
    """The new attributes replace the old ones; `null` clears them."""

    attributes: Attributes | None


class RankingOptions(LenientModel):
    """`ranker` is accepted for compatibility: the hub's own ranker always runs."""

    ranker: Literal["none", "auto", "default-2024-08-21", "default-2024-11-15"] | None = None
    score_threshold: Annotated[float, Field(ge=0.0, le=1.0)] | None = None


class SearchRequest(LenientModel):
    """`mode` is the hub's own field; `rewrite_query` is accepted and the query is searched as it is."""

    query: Annotated[
        Query | Annotated[list[Query], Field(min_length=1, max_length=MAX_QUERIES)],
        one_message(f"must be a string of 1 to {MAX_QUERY_CHARS} characters, or a list of 1 to {MAX_QUERIES} of them"),
    ]
    filters: Filters | None = None
    max_num_results: Annotated[int, Field(ge=1, le=MAX_RESULTS)] = 10
    ranking_options: RankingOptions | None = None
    rewrite_query: bool = False
    mode: SearchMode = "hybrid"

    @property
    def queries(self) -> list[str]:
        return [self.query] if isinstance(self.query, str) else self.query


class FileCounts(ResponseModel):
    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class VectorStoreObject(ResponseModel):
    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str
    description: str | None = None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiresAfter | None = None
    expires_at: int | None = None
    last_active_at: int | None = None
    metadata: dict[str, str]


class FileBatchObject(ResponseModel):
    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: FileStatus
    file_counts: FileCounts


class LastError(ResponseModel):
    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class VectorStoreFileObject(ResponseModel):
    """A file as one store knows it. `chunking_strategy` shows the sizes really used, also for `auto`."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    created_at: int
    vector_store_id: str
    status: FileStatus
    last_error: LastError | None = None
    usage_bytes: int
    chunking_strategy: StaticChunking
    attributes: dict[str, AttributeValue]


class TextContent(ResponseModel):
    type: Literal["text"] = "text"
    text: str


class SearchResult(ResponseModel):
    """One chunk; `score` lies in 0..1, best first."""

    file_id: str
    filename: str
    score: float
    attributes: dict[str, AttributeValue]
    content: list[TextContent]


class RecordingSearchResult(SearchResult):
    """One chunk of an audio or video file: what is said from `start_s` to `end_s`, in seconds from the start."""

    start_s: float
    end_s: float


class SearchResults(ResponseModel):
    object: Literal["vector_store.search_results.page"] = "vector_store.search_results.page"
    search_query: list[str]
    data: list[RecordingSearchResult | SearchResult]
    has_more: bool = False
    next_page: str | None = None


class FileContentPage(ResponseModel):
    """The text a file was parsed to, as one item: of a recording its transcript, of an image its caption."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[TextContent]
    has_more: bool = False
    next_page: str | None = None
