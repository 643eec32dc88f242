"""The sentences of the sources, found by their words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aihub.documents.sentences import sentences
from pipelines.words import Word, words

FOLDED_MATCH = 0.6


@dataclass(frozen=True, slots=True)
class CitableSource:
    """A chunk the model saw.

    Attributes:
        number: Its `[n]` in the prompt.
        text: Exact substring of the document's text from `start_char`.
        start_char: Offset of `text` in the document's text, in Unicode code points.
    """

    number: int
    file_id: str
    filename: str
    text: str
    start_char: int


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
