"""Which sentences of the sources support an answer.

Found after generation, from words alone, so that it works with models too small to cite: a source sentence supports a
statement of the answer by the share of the statement's content words it holds, rare words counting more (inverse
sentence frequency over all sources). Words the statement repeats from the question count less, since every source about
the topic has them; the question's words then decide between sentences with the same fact. `[n]` in the answer is honoured.
An answer in other words is supported by the sentence that holds its numbers and names, see `pipelines.fact_support`.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aihub.documents.sentences import sentences
from aihub.documents.time_spans import time_range
from pipelines.fact_support import holding_sentences, is_polar
from pipelines.sentence_index import CitableSource, SentenceIndex, Word, content_words

MIN_SUPPORT = 0.5
"""A quote must hold more than this share of what a statement adds to the question, by word weight."""

MIN_SUPPORT_IF_NAMED = 0.15
"""The same where the answer names the source by its number."""

RELATIVE_SUPPORT = 0.85
"""A quote is dropped when another source's for the same statement is better by more than this factor."""

QUESTION_WORD_WEIGHT = 0.3
QUESTION_MATCH_WEIGHT = 0.35
WORTHWHILE_GAIN = 0.2
MAX_QUOTE_SENTENCES = 3

_MARKERS = re.compile(r"\[\d{1,3}(?:\s*,\s*\d{1,3})*\]")
_LEADING_MARKERS = re.compile(r"\s*(?:\[\d{1,3}(?:\s*,\s*\d{1,3})*\]\s*)+")


@dataclass(frozen=True, slots=True)
class Citation:
    """One quote and the statement it supports.

    Attributes:
        index: Offset in the answer, in Unicode code points, of the end of the supported statement.
        quote: Exactly `document_text[start_char:end_char]`.
        support: 0 to 1 for the words, plus what the question's words and an explicit `[n]` add.
        time_s: When the quote's first word begins and its last ends, in seconds; None where the document is no recording.
    """

    index: int
    number: int
    file_id: str
    filename: str
    quote: str
    start_char: int
    end_char: int
    support: float
    time_s: tuple[float, float] | None = None

    def annotation(self) -> dict[str, Any]:
        """Return the `file_citation` object of a message's `annotations`."""
        return {
            "type": "file_citation",
            "index": self.index,
            "file_id": self.file_id,
            "filename": self.filename,
            "quote": self.quote,
            "start_char": self.start_char,
            "end_char": self.end_char,
        } | ({} if self.time_s is None else {"start_s": self.time_s[0], "end_s": self.time_s[1]})


@dataclass(frozen=True, slots=True)
class _Statement:
    """A sentence of the answer.

    Attributes:
        weights: Its content words; those of the question at a lower weight.
        added: Those it adds to the question; all of them where it only repeats the question.
        numbers: The sources it names.
    """

    end: int
    weights: Mapping[Word, float]
    added: Mapping[Word, float]
    numbers: frozenset[int]


def find_citations(answer: str, question: str, sources: Sequence[CitableSource], *, per_source: int = 1) -> list[Citation]:
    """Find the best supporting quote of each source, best supported first.

    A source which supports nothing gives none; an answer without support gives an empty list. Overlapping chunks of one
    file never give the same quote twice.

    Args:
        per_source: Most quotes from one source; they support different statements.
    """
    if not answer.strip() or not sources:
        return []
    index = SentenceIndex(sources)
    asked = {word: index.rarity(word) for word in content_words(question)}
    answers_question = index.scores(asked)
    found: list[Citation] = []
    for statement in _statements(answer, index, asked):
        found += _supports(statement, index, answers_question)
    for end, text in _answer_sentences(answer):
        found += _facts(end, _MARKERS.sub(" ", text), question, index, found)
    found.sort(key=lambda citation: -citation.support)
    return _list_safe(_select(found, per_source))


def _statements(answer: str, index: SentenceIndex, asked: Mapping[Word, float]) -> Iterator[_Statement]:
    repeated = {word.plain for word in asked}
    for end, text in _answer_sentences(answer):
        numbers = frozenset(int(n) for marker in _MARKERS.findall(text) for n in re.findall(r"\d+", marker))
        content = {word: index.rarity(word) for word in content_words(_MARKERS.sub(" ", text))}
        added = {word: weight for word, weight in content.items() if word.plain not in repeated}
        if content:
            weights = {word: weight * (1.0 if word in added else QUESTION_WORD_WEIGHT) for word, weight in content.items()}
            yield _Statement(end, weights, added or content, numbers)


def _answer_sentences(answer: str) -> Iterator[tuple[int, str]]:
    """Yield (end offset, text) of each sentence; a marker after the full stop belongs to the sentence before it."""
    spans: list[tuple[int, int]] = []
    for start, end in sentences(answer):
        marker = _LEADING_MARKERS.match(answer, start, end) if spans else None
        if marker:
            spans[-1] = (spans[-1][0], len(answer[: marker.end()].rstrip()))
        if (begin := marker.end() if marker else start) < end:
            spans.append((begin, end))
    for start, end in spans:
        yield end, answer[start:end]


def _supports(statement: _Statement, index: SentenceIndex, answers_question: Mapping[int, float]) -> list[Citation]:
    scores = {
        sentence: score + QUESTION_MATCH_WEIGHT * answers_question.get(sentence, 0.0)
        for sentence, score in index.scores(statement.weights).items()
    }
    best: dict[int, int] = {}
    for sentence in index.scores(statement.added):
        source = index.sentences[sentence].source
        if source not in best or (scores[sentence], -sentence) > (scores[best[source]], -best[source]):
            best[source] = sentence
    supports: list[tuple[float, int, int]] = []
    for source, sentence in best.items():
        named = index.sources[source].number in statement.numbers
        first, last = _widen(sentence, statement.weights, index)
        if index.share(statement.added, first, last) > (MIN_SUPPORT_IF_NAMED if named else MIN_SUPPORT):
            gained = index.share(statement.weights, first, last) - index.share(statement.weights, sentence, sentence)
            supports.append((scores[sentence] + gained + (1.0 if named else 0.0), first, last))
    strongest = max((support for support, _, _ in supports), default=0.0)
    return [_citation(statement.end, index, *support) for support in supports if support[0] >= RELATIVE_SUPPORT * strongest]


def _facts(end: int, text: str, question: str, index: SentenceIndex, found: Sequence[Citation]) -> list[Citation]:
    """Cite the sentences that hold the facts of a statement, unless a quote for it has them already."""
    holding = holding_sentences(text, question, index)
    cited = {(citation.number, citation.start_char, citation.end_char) for citation in found if citation.index == end}
    # Who or what is asked about often stands in the sentence beside.
    asked = {word: index.rarity(word) for word in content_words(question)} if is_polar(text, question) else {}
    spans = [(*(_widen(sentence, asked, index) if asked else (sentence, sentence)), support) for sentence, support in holding]
    citations = [_citation(end, index, support, first, last) for first, last, support in spans]
    return [] if any(_is_within(citation, cited) for citation in citations) else citations


def _is_within(citation: Citation, places: Collection[tuple[int, int, int]]) -> bool:
    return any(
        number == citation.number and start <= citation.start_char and citation.end_char <= end for number, start, end in places
    )


def _widen(sentence: int, weights: Mapping[Word, float], index: SentenceIndex) -> tuple[int, int]:
    """Take in neighbouring sentences of the same source while each adds a fair share of the statement."""
    first = last = sentence
    share = index.share(weights, first, last)
    source = index.sentences[sentence].source
    while last - first + 1 < MAX_QUOTE_SENTENCES:
        wider = [
            (index.share(weights, low, high), low, high)
            for low, high in ((first - 1, last), (first, last + 1))
            if low >= 0 and high < len(index.sentences) and index.sentences[low].source == index.sentences[high].source == source
        ]
        wider_share, low, high = max(wider, default=(0.0, first, last))
        if wider_share - share < WORTHWHILE_GAIN:
            break
        share, first, last = wider_share, low, high
    return first, last


def _citation(answer_end: int, index: SentenceIndex, support: float, first: int, last: int) -> Citation:
    source = index.sources[index.sentences[first].source]
    start, end = index.sentences[first].start, index.sentences[last].end
    start_char, end_char = source.start_char + start, source.start_char + end
    return Citation(
        index=answer_end,
        number=source.number,
        file_id=source.file_id,
        filename=source.filename,
        quote=source.text[start:end],
        start_char=start_char,
        end_char=end_char,
        support=support,
        time_s=time_range(source.time_spans, start_char, end_char),
    )


def _select(found: Sequence[Citation], per_source: int) -> list[Citation]:
    taken: dict[int, int] = {}
    quotes: set[tuple[str, int, int]] = set()
    selected: list[Citation] = []
    for citation in found:
        place = (citation.file_id, citation.start_char, citation.end_char)
        if place in quotes or taken.get(citation.number, 0) >= per_source:
            continue
        quotes.add(place)
        taken[citation.number] = taken.get(citation.number, 0) + 1
        selected.append(citation)
    return selected


def _list_safe(citations: Sequence[Citation]) -> list[Citation]:
    # The official client's stream helper takes an entry's `index` for its place in the list and merges entries whose
    # place is taken, so an entry must never have an index below its place. Only answers of a few characters are touched.
    safe: list[Citation] = []
    for citation in citations:
        if citation.index >= len(safe):
            safe.append(citation)
    return safe
