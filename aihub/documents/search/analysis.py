"""Text to index terms, the same way for chunks and for queries.

Words (`aihub.core.text_folding`) are stemmed by the language they are in (Snowball).
A word with diacritics gives two terms: the stem as written, and its plain form under a name of its own (`~ma` for "má"), so that
"ma" finds "má" and yet an exact match always counts more. Vietnamese words span syllables, so its chunks also get the pairs
of adjacent syllables, without marks.

Measured by nDCG@10 with BM25 on xquad vi: syllables alone .943; with pairs .965; questions stripped of marks .962, documents
stripped .964. Pairs with marks as well, or weights a little different from those below, change less than .004.
"""

import threading
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from aihub.core.language import detect_language
from aihub.core.text_folding import split_words, without_marks

MIN_LETTERS = 40
"""Shorter chunks take the language of their document: too few letters to judge by."""

MAX_QUERY_WORDS = 1000
"""Words of a query that are looked at."""

# Weights of the spellings of a query word, the word as written being 1.
_UNMARKED = 0.5  # the query has marks, the document none
_OTHER_MARKS = 0.2  # other marks than the query, or marks where a query that uses them has none
_MARKED = 0.8  # the query has no marks at all, the document does
_PAIR_BOOST = 0.5

_LETTER = regex.compile(r"\p{L}")
_STEMMERS = {
    "ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "da": "danish", "nl": "dutch", "en": "english",
    "eo": "esperanto", "et": "estonian", "fi": "finnish", "fr": "french", "de": "german", "el": "greek", "hi": "hindi",
    "hu": "hungarian", "id": "indonesian", "ga": "irish", "it": "italian", "lt": "lithuanian", "ne": "nepali", "no": "norwegian",
    "nn": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian", "es": "spanish", "sv": "swedish",
    "ta": "tamil", "tr": "turkish",
}  # fmt: skip


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
    short = document_language is not None and len(_LETTER.findall(text)) < MIN_LETTERS
    language = document_language if short and document_language is not None else detect_language(text)
    words = split_words(text)
    counts = Counter(term_id for word in words for term_id in _index_ids(word, language))
    if language == "vi":
        counts.update(map(_term_id, _pairs(words)))
    ids = sorted(counts)
    return Terms(
        term_ids=np.array(ids, dtype=np.int32),
        term_freqs=np.array([min(counts[term_id], 65_535) for term_id in ids], dtype=np.uint16),
        total=len(words),
        language=language,
    )


def analyse_query(text: str, languages: Collection[str]) -> list[QueryTerm]:
    """Analyse a query against stores whose chunks are in `languages`; empty when it has no words.

    A word gets one term, whatever the number of languages: its stems in each of them are spellings of it.
    """
    words = split_words(text)[:MAX_QUERY_WORDS]
    is_marked = any(without_marks(word) != word for word in words)
    terms = [replace(_query_term(word, languages, is_marked), boost=float(n)) for word, n in Counter(words).items()]
    if "vi" in languages:
        terms += [QueryTerm((_term_id(pair),), (1.0,), _PAIR_BOOST * n) for pair, n in Counter(_pairs(words)).items()]
    return terms


def _pairs(words: list[str]) -> Iterator[str]:
    plain = [without_marks(word) for word in words]
    return (f"{left} {right}" for left, right in zip(plain, plain[1:], strict=False))


@lru_cache(maxsize=32_768)
def _index_ids(word: str, language: str) -> tuple[int, ...]:
    stem = _stem(word, language)
    plain = without_marks(stem)
    return (_term_id(stem),) if plain == stem else (_term_id(stem), _term_id("~" + plain))


def _query_term(word: str, languages: Collection[str], is_query_marked: bool) -> QueryTerm:
    weights: dict[int, float] = {}
    # The bare word too: chunks whose language was misjudged are not stemmed as the others.
    for stem in dict.fromkeys([word, *(_stem(word, language) for language in languages)]):
        plain = without_marks(stem)
        weights[_term_id(stem)] = 1.0
        if plain != stem:
            weights.setdefault(_term_id(plain), _UNMARKED)
        weights.setdefault(_term_id("~" + plain), _OTHER_MARKS if is_query_marked else _MARKED)
    return QueryTerm(tuple(weights), tuple(weights.values()))


@lru_cache(maxsize=32_768)
def _stem(word: str, language: str) -> str:
    name = _STEMMERS.get(language)
    return word if name is None else str(_stemmers.named(name).stemWord(word))


class _Stemmers(threading.local):
    """Snowball stemmers of one thread: they keep state while they stem."""

    def __init__(self) -> None:
        self._stemmers: dict[str, Any] = {}

    def named(self, name: str) -> Any:
        import Stemmer

        if name not in self._stemmers:
            self._stemmers[name] = Stemmer.Stemmer(name)
        return self._stemmers[name]


_stemmers = _Stemmers()


def _term_id(term: str) -> int:
    """31-bit hash: the same in every process and version, never negative in int32."""
    return zlib.crc32(term.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF
