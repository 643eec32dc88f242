"""Text to index terms, the same way for chunks and for queries.

NFKC, case folded, words of letters, digits and marks. A word is stemmed by the language it is in (Snowball), and one that
carries diacritics is indexed twice: as written, and without them under a separate name, so that "ma" can find "má" and yet
"má" never counts as "ma". Vietnamese chunks also get pairs of adjacent syllables, because its words span syllables.
"""

import unicodedata
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from aihub.retrieval.language import detect_language

MIN_LETTERS = 40
"""Shorter chunks take the language of their document: too few letters to judge by."""

_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")
_LETTER = regex.compile(r"\p{L}")
_DIACRITICS = regex.compile(r"[\u0300-\u036f]+")
_INVISIBLE = regex.compile(r"[\u00ad\u200b-\u200d\ufeff]+")
_NO_DECOMPOSITION = str.maketrans({"đ": "d", "ø": "o", "ł": "l", "ı": "i", "æ": "ae", "œ": "oe"})
_STEMMERS = {"en": "english", "fr": "french", "de": "german", "es": "spanish"}


@dataclass(frozen=True, slots=True)
class Terms:
    """What the lexical index stores of one chunk.

    Attributes:
        term_ids: int32, shape (n,), distinct and ascending.
        term_freqs: uint16, shape (n,), occurrences of each term, at most 65,535.
        total: Words in the chunk: the length BM25 normalises by.
        language: ISO 639-1 code, or `und`.
    """

    term_ids: NDArray[np.int32]
    term_freqs: NDArray[np.uint16]
    total: int
    language: str


@dataclass(frozen=True, slots=True)
class QueryTerm:
    """One word of a query with the spellings that count as it.

    Attributes:
        ids: Term ids; a chunk's frequency of the word is the weighted sum of theirs.
        weights: One per id, in (0, 1].
        boost: Factor of the word's score.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    boost: float = 1.0


def analyse(text: str, *, document_language: str | None = None) -> Terms:
    """Analyse one chunk for the lexical index.

    Args:
        text: The chunk.
        document_language: `detect_language` of the whole document; used where the chunk has fewer than 40 letters.
    """
    language = _chunk_language(text, document_language)
    words = _words(text)
    counts: Counter[int] = Counter()
    for word in words:
        counts.update(_index_ids(word, language))
    if language == "vi":
        counts.update(_term_id(pair) for pair in _pairs(words))
    ids = sorted(counts)
    return Terms(
        term_ids=np.array(ids, dtype=np.int32),
        term_freqs=np.array([min(counts[term_id], 65_535) for term_id in ids], dtype=np.uint16),
        total=len(words),
        language=language,
    )


def analyse_query(text: str, languages: Collection[str]) -> list[QueryTerm]:
    """Analyse a query against a store whose chunks are in `languages`; empty when it has no words."""
    words = _words(text)
    terms = [_query_term(word, languages) for word in words]
    if "vi" in languages:
        terms += [QueryTerm((_term_id(pair),), (1.0,)) for pair in _pairs(words)]
    return terms


def _chunk_language(text: str, document_language: str | None) -> str:
    if document_language is not None and len(_LETTER.findall(text)) < MIN_LETTERS:
        return document_language
    return detect_language(text)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    found: list[str] = _WORD.findall(folded)
    return found


def _pairs(words: list[str]) -> Iterator[str]:
    plain = [_without_marks(word) for word in words]
    return (f"{left} {right}" for left, right in zip(plain, plain[1:], strict=False))


@lru_cache(maxsize=65_536)
def _index_ids(word: str, language: str) -> tuple[int, ...]:
    stem = _stem(word, language)
    plain = _without_marks(stem)
    return (_term_id(stem),) if plain == stem else (_term_id(stem), _term_id("~" + plain))


def _query_term(word: str, languages: Collection[str]) -> QueryTerm:
    weights: dict[int, float] = {}
    for stem in {_stem(word, language) for language in languages} or {word}:
        plain = _without_marks(stem)
        weights[_term_id(stem)] = 1.0
        weights.setdefault(_term_id(plain), 0.5)
        weights.setdefault(_term_id("~" + plain), 0.5)
    return QueryTerm(tuple(weights), tuple(weights.values()))


def _stem(word: str, language: str) -> str:
    name = _STEMMERS.get(language)
    return word if name is None else str(_stemmer(name).stemWord(word))


@lru_cache(maxsize=8)
def _stemmer(name: str) -> Any:
    import Stemmer

    return Stemmer.Stemmer(name)


def _without_marks(word: str) -> str:
    if word.isascii():
        return word
    return unicodedata.normalize("NFC", _DIACRITICS.sub("", unicodedata.normalize("NFD", word))).translate(_NO_DECOMPOSITION)


def _term_id(term: str) -> int:
    """31-bit hash: the same in every process and version, never negative in int32."""
    return zlib.crc32(term.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF
