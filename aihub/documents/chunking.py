"""Sentence-aware chunks that never exceed a number of tokens, counted as the embedder will.

Sentences are packed greedily. A sentence too long for a chunk is taken apart into lines, then into groups of words, then
between the characters a reader sees, and only then inside them.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import regex

from aihub.core.errors import ConfigurationError, InvalidRequestError
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.options import ChunkingOptions
from aihub.documents.sentences import Span, sentences, trim


class TokenCounter:
    """Counts tokens without special tokens, truncation or padding.

    Args:
        tokenizer_path: The embedder's `tokenizer.json`.

    Attributes:
        is_additive: Whether two texts parted by white space have together as many tokens as apart. True of BERT's
            pre-tokenizer, which splits at white space first; false of byte-level and SentencePiece tokenizers,
            where white space is part of tokens.

    Raises:
        ConfigurationError: The file is missing or is no tokenizer.
    """

    def __init__(self, tokenizer_path: str) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(tokenizer_path)
        except Exception as error:
            raise ConfigurationError(f"Cannot read the embedder's tokenizer {tokenizer_path}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.is_additive = type(self._tokenizer.pre_tokenizer).__name__ == "BertPreTokenizer"

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def is_separator(character: str) -> bool:
    """Whether every tokenizer takes the character for white space (BERT deletes the other control characters)."""
    return character in " \n\t" or unicodedata.category(character) == "Zs"


CHARACTERS_PER_TOKEN = 10
"""Most characters of a chunk, per token: a tokenizer may count a very long word as one unknown token."""

_COUNTED_AT_ONCE = 512
_GRAPHEME = regex.compile(r"\X")

_Splitter = Callable[[str, Span], Iterator[Span]]


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """Where a chunk lies in the text, and its exact number of tokens."""

    start: int
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Unit:
    """The least that moves between chunks: a sentence, or a part of one that is too long."""

    start: int
    end: int
    tokens: int
    is_apart: bool  # white space before it keeps its tokens apart from those of the unit before


def chunk_text(text: str, options: ChunkingOptions, counter: TokenCounter, *, max_chunks: int) -> list[ChunkSpan]:
    """Cut `text` into chunks in order; together they cover every character that is not white space.

    Linear in the length of the text times `max_tokens / (max_tokens - overlap_tokens)`.

    Raises:
        DocumentError: `too_large`, more than `max_chunks`.
        InvalidRequestError: One character has more tokens than a chunk may hold.
    """
    chunks: list[ChunkSpan] = []
    for chunk in _Packer(text, options, counter).chunks():
        if len(chunks) == max_chunks:
            raise DocumentError(
                f"The file gives more than {max_chunks:,} chunks; raise max_chunk_size_tokens or lower chunk_overlap_tokens.",
                code="too_large",
            )
        chunks.append(chunk)
    return chunks


class _Packer:
    def __init__(self, text: str, options: ChunkingOptions, counter: TokenCounter) -> None:
        self._text = text
        self._counter = counter
        self._max_tokens = options.max_tokens
        self._overlap_tokens = options.overlap_tokens
        self._max_characters = options.max_tokens * CHARACTERS_PER_TOKEN
        self._units = list(self._fitting(sentences(text), (_lines, self._words, _graphemes, _characters)))

    def chunks(self) -> Iterator[ChunkSpan]:
        first = covered = 0
        while covered < len(self._units):
            end = self._reach(first, covered + 1)
            tokens = self._count(first, end)
            while tokens > self._max_tokens:
                # Only where tokens cross unit borders. Give way by about the excess, never below one new unit.
                if end - 1 > covered:
                    end = max(covered + 1, end - max(1, (end - first) * (tokens - self._max_tokens) // (2 * tokens)))
                else:
                    first += 1
                tokens = self._count(first, end)
            yield ChunkSpan(self._units[first].start, self._units[end - 1].end, tokens)
            covered = end
            first = self._overlap_start(first, end)

    def _reach(self, first: int, end: int) -> int:
        """Return the end of the longest run of units from `first` that fits, at least `end`."""
        tokens = sum(unit.tokens for unit in self._units[first:end])
        while end < len(self._units):
            unit = self._units[end]
            tokens += unit.tokens
            if tokens > self._max_tokens or unit.end - self._units[first].start > self._max_characters:
                break
            end += 1
        return end

    def _overlap_start(self, first: int, end: int) -> int:
        """Return the first unit of the next chunk: the last units that fit into the overlap and leave room for a new one."""
        if end == len(self._units):
            return end
        following = self._units[end]
        room = min(self._overlap_tokens, self._max_tokens - following.tokens)
        # In characters too: units without any token (invisible characters) would repeat without end.
        earliest = max(
            following.end - self._max_characters, self._units[end - 1].end - self._overlap_tokens * CHARACTERS_PER_TOKEN
        )
        start = end
        while start - 1 > first:
            unit = self._units[start - 1]
            room -= unit.tokens
            if room < 0 or unit.start < earliest:
                break
            start -= 1
        return start

    def _count(self, first: int, end: int) -> int:
        units = self._units[first:end]
        if self._counter.is_additive and all(unit.is_apart for unit in units[1:]):
            return sum(unit.tokens for unit in units)
        return self._counter.count([self._text[units[0].start : units[-1].end]])[0]

    def _fitting(self, spans: Iterable[Span], finer: tuple[_Splitter, ...]) -> Iterator[_Unit]:
        """Yield `spans` as units, those that do not fit into one chunk taken apart by the first of `finer`, and so on."""
        spans = iter(spans)
        while batch := list(islice(spans, _COUNTED_AT_ONCE)):
            short = [span for span in batch if span[1] - span[0] <= self._max_characters]
            tokens = dict(zip(short, self._counter.count([self._text[start:end] for start, end in short]), strict=True))
            for span in batch:
                count = tokens.get(span)
                if count is not None and count <= self._max_tokens:
                    start, end = span
                    yield _Unit(start, end, count, start == 0 or is_separator(self._text[start - 1]))
                elif finer:
                    yield from self._fitting(finer[0](self._text, span), finer[1:])
                else:
                    raise InvalidRequestError(
                        "One character of the text has more tokens than a chunk may hold; raise max_chunk_size_tokens.",
                        param="chunking_strategy.static.max_chunk_size_tokens",
                    )

    def _words(self, text: str, span: Span) -> Iterator[Span]:
        """Groups of words far shorter than a chunk, so that chunks of a long sentence come close to the limit."""
        start, end = span
        while start < end:
            cut = _cut(text, start, min(end, start + max(1, self._max_tokens // 2)), end)
            group = trim(text, start, cut)
            if group is not None:
                yield group
            start = cut


def _lines(text: str, span: Span) -> Iterator[Span]:
    start, end = span
    while start < end:
        newline = text.find("\n", start, end)
        line_end = end if newline < 0 else newline + 1
        line = trim(text, start, line_end)
        if line is not None:
            yield line
        start = line_end


def _graphemes(text: str, span: Span) -> Iterator[Span]:
    return (piece for match in _GRAPHEME.finditer(text, *span) if (piece := trim(text, *match.span())) is not None)


def _characters(text: str, span: Span) -> Iterator[Span]:
    return ((index, index + 1) for index in range(*span) if not text[index].isspace())


def _cut(text: str, start: int, limit: int, end: int) -> int:
    """Return where to cut text[start:end]: at the last white space up to `limit`, else between graphemes."""
    if limit == end:
        return end
    for index in range(limit, start, -1):
        if text[index].isspace():
            return index
    cut = start
    for match in _GRAPHEME.finditer(text, start, end):
        if match.end() > limit and cut > start:
            break
        cut = match.end()
        if cut >= limit:
            break
    return cut
