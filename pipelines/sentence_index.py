"""The sentences of the sources, found by their words as far as finding quotes needs them."""

import math
import re
import threading
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from aihub.documents.sentences import sentences

_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+")
_local = threading.local()

STOP_WORDS = frozenset(
    # Function words, and words answers are wrapped in ("according to the sources"), of English and Vietnamese.
    """a about according after all also an and answer any are as at be because been before being both but by can could did do
    does during each for from had has have he her his how i if in into is it its may me might more most my no not of on
    only or other our question out over s she should so some source sources such t than that the their them then there
    these they this those through to under until up very was we were what when where which while who whom why will with
    would you your
    bằng bị bởi các cái cho chỉ chưa có cả của cùng cũng câu do gì hay hoặc hỏi khi không là lại mà nguồn mỗi một nào này
    nên nếu như nhưng những nó ở ra rằng rất sau sẽ sự tại theo thì trên trong trả trước từ và vào vì với về được đã đang
    đây đến đó để""".split()
)


class Word(NamedTuple):
    """A word as written (case folded, English plural and verb endings off) and the same without diacritics."""

    exact: str
    plain: str

    @property
    def is_marked(self) -> bool:
        return self.exact != self.plain


def words(text: str) -> Iterator[Word]:
    """Yield the words of `text`; any Unicode letters and digits count."""
    return (_word(found) for found in _folded_words(text))


def content_words(text: str) -> Iterator[Word]:
    """Yield the words which say what `text` is about."""
    return (_word(found) for found in _folded_words(text) if found not in STOP_WORDS)


def _folded_words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=65_536)
def _word(text: str) -> Word:
    exact = _stemmer().stemWord(text) if text.isascii() and len(text) > 3 else text
    plain = "".join(c for c in unicodedata.normalize("NFD", exact) if not unicodedata.combining(c)).replace("đ", "d")
    return Word(exact, plain)


def _stemmer() -> Any:
    # Stemmer objects must not be shared between threads.
    if not hasattr(_local, "stemmer"):
        import Stemmer

        _local.stemmer = Stemmer.Stemmer("english")
    return _local.stemmer


FOLDED_MATCH = 0.6


@dataclass(frozen=True, slots=True)
class CitableSource:
    """A chunk the model saw.

    Attributes:
        number: Its `[n]` in the prompt.
        text: Exact substring of the document's text from `start_char`.
        start_char: Offset of `text` in the document's text, in Unicode code points.
        time_spans: When its words were said (`aihub.documents.time_spans`); None where the document is no recording.
    """

    number: int
    file_id: str
    filename: str
    text: str
    start_char: int
    time_spans: bytes | None = None


@dataclass(frozen=True, slots=True)
class SourceSentence:
    """A sentence of a source, by source position and local offsets."""

    source: int
    start: int
    end: int


class SentenceIndex:
    """Words to the sentences of all sources that hold them."""

    def __init__(self, sources: Sequence[CitableSource]) -> None:
        self.sources = sources
        self.sentences: list[SourceSentence] = []
        self._exact: dict[str, set[int]] = {}
        self._plain: dict[str, set[int]] = {}
        self._matches: dict[Word, dict[int, float]] = {}
        for position, source in enumerate(sources):
            for start, end in sentences(source.text):
                for word in words(source.text[start:end]):
                    self._exact.setdefault(word.exact, set()).add(len(self.sentences))
                    self._plain.setdefault(word.plain, set()).add(len(self.sentences))
                self.sentences.append(SourceSentence(position, start, end))

    def matches(self, word: Word) -> Mapping[int, float]:
        """Return the sentences with the word and how surely it is the same word: tone marks may lack on one side only."""
        if word not in self._matches:
            folded = (self._exact if word.is_marked else self._plain).get(word.plain, set())
            exact = self._exact.get(word.exact, set())
            self._matches[word] = dict.fromkeys(folded, FOLDED_MATCH) | dict.fromkeys(exact, 1.0)
        return self._matches[word]

    def rarity(self, word: Word) -> float:
        """Return BM25's inverse frequency over sentences; a word of no sentence counts as one of a single sentence."""
        frequency = max(len(self.matches(word)), 1)
        return math.log(1.0 + (len(self.sentences) - frequency + 0.5) / (frequency + 0.5))

    def scores(self, weights: Mapping[Word, float]) -> dict[int, float]:
        """Return the share of the words' weight that each sentence holds; those without any are left out."""
        total = sum(weights.values())
        scores: dict[int, float] = {}
        for word, weight in weights.items():
            for sentence, strength in self.matches(word).items():
                scores[sentence] = scores.get(sentence, 0.0) + weight * strength / total
        return scores

    def share(self, weights: Mapping[Word, float], first: int, last: int) -> float:
        """Return the share of the words' weight that the sentences from `first` to `last` hold together."""
        window = range(first, last + 1)
        held = (weight * max(self.matches(word).get(n, 0.0) for n in window) for word, weight in weights.items())
        return sum(held) / sum(weights.values())
