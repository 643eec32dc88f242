"""What a caller may choose about chunking, the bounds of parsing one document, and what parsing gives."""

from dataclasses import dataclass
from typing import Literal

from aihub.core.errors import InvalidRequestError
from aihub.media.service import MediaKind

MIN_CHUNK_TOKENS = 8
MAX_CHUNK_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class ChunkingOptions:
    """How text is cut.

    Attributes:
        max_tokens: Most tokens in a chunk, counted by the embedder's tokenizer without special tokens.
        overlap_tokens: Most tokens of whole sentences repeated from the end of one chunk at the start of the next.

    Raises:
        InvalidRequestError: Sizes out of range, or an overlap that is not smaller than the chunk.
    """

    max_tokens: int
    overlap_tokens: int = 0

    def __post_init__(self) -> None:
        if not MIN_CHUNK_TOKENS <= self.max_tokens <= MAX_CHUNK_TOKENS:
            raise InvalidRequestError(
                f"The chunk size must be between {MIN_CHUNK_TOKENS} and {MAX_CHUNK_TOKENS} tokens, not {self.max_tokens}.",
                param="chunking_strategy.static.max_chunk_size_tokens",
            )
        if not 0 <= self.overlap_tokens < self.max_tokens:
            raise InvalidRequestError(
                f"The chunk overlap must be at least 0 and smaller than the chunk size ({self.max_tokens} tokens), "
                f"not {self.overlap_tokens}.",
                param="chunking_strategy.static.chunk_overlap_tokens",
            )


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """What one document may take.

    Attributes:
        memory_mb: MiB of address space beyond what the idle parser process has.
        cpu_s: Seconds of processor time.
        wall_s: Seconds from handing the document to the parser until its answer; generous, for busy machines.
        max_pages: Pages of a PDF.
        max_characters: Characters of extracted text.
        max_chunks: Chunks; small chunks with a large overlap multiply the text.
    """

    memory_mb: int = 1024
    cpu_s: int = 60
    wall_s: float = 300.0
    max_pages: int = 2_000
    max_characters: int = 10_000_000
    max_chunks: int = 100_000


DocumentFormat = Literal["txt", "md", "html", "pdf", "docx", "rtf", "csv", "json"] | MediaKind


@dataclass(frozen=True, slots=True)
class TextChunk:
    """A piece of a document, ready to embed and to index.

    Attributes:
        ordinal: Position in the document, from 0.
        text: Exactly `document.text[start_char:end_char]`.
        start_char: First character (Unicode code point) in the document's text.
        end_char: One past the last character.
        token_count: Tokens by the embedder's tokenizer, special tokens left out.
        language: ISO 639-1 code, or `und`.
        term_ids: Distinct terms for BM25, int32 little endian, ascending.
        term_freqs: How often each term occurs, uint16 little endian.
        term_total: Words in the chunk.
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


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """The text of a file (NFC, no NUL, newline line ends) and its chunks in order."""

    text: str
    format: DocumentFormat
    chunks: list[TextChunk]
