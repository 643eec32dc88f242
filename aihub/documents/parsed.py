"""What parsing a file gives."""

from dataclasses import dataclass
from typing import Literal

DocumentFormat = Literal["txt", "md", "html", "pdf", "docx", "rtf", "csv", "json"]


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
