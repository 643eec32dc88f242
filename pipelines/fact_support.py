"""Which sentences hold the facts of a statement, whatever other words stand around them.

A short answer (`9 weeks`, `Yes.`, `Quade`) or one in other words shares too few words with its source. What it cannot say in
other words are its numbers, dates and names: a sentence that holds them all, in a source about the question, supports it. An
answer of yes or no is supported by the sentence that the question repeats.
"""

import re
from collections.abc import Mapping

from pipelines.sentence_index import SentenceIndex
from pipelines.values import Value, names, spoken_values, written_values
from pipelines.words import STOP_WORDS, Word, content_words, words

MIN_CONTEXT = 0.34
"""Share of the question, by word weight, that the source must hold around a fact."""

MIN_IN_SENTENCE = 0.08
"""Share of the question that the sentence with the fact must hold itself."""

MIN_BESIDE_WORDS = 0.2
"""Share of a statement that must be held where its number is a small one in words, which is often said without meaning one."""

MIN_CONTEXT_OF_POLAR = 0.5
"""Share of the question that one sentence must hold to support yes or no."""

RELATIVE_SUPPORT = 0.85

_POLAR = frozenset("yes yeah yep no nope true false correct isn aren not có không vâng dạ ạ được đúng phải chưa rồi".split())


def holding_sentences(statement: str, question: str, index: SentenceIndex) -> list[tuple[int, float]]:
    """Return (sentence, support from 0 to 1), at most one per source, best first; empty when the statement has no facts."""
    asked = {word: index.rarity(word) for word in content_words(question)}
    if not asked:
        return []
    if is_polar(statement, question):
        scores = {n: share for n, share in index.scores(asked).items() if share >= MIN_CONTEXT_OF_POLAR}
    else:
        scores = _by_facts(statement, question, index, asked)
    best: dict[int, tuple[float, int]] = {}
    for sentence, score in scores.items():
        source = index.sentences[sentence].source
        best[source] = max(best.get(source, (0.0, 0)), (score, -sentence))
    strongest = max((score for score, _ in best.values()), default=0.0)
    kept = [(-sentence, score) for score, sentence in best.values() if score >= RELATIVE_SUPPORT * strongest]
    return sorted(kept, key=lambda item: -item[1])


def _by_facts(statement: str, question: str, index: SentenceIndex, asked: Mapping[Word, float]) -> dict[int, float]:
    values = _new(written_values(statement), written_values(question))
    is_small = False
    if not values:
        values = _new(spoken_values(statement), spoken_values(question))
        is_small = all(len(text) == 1 for value in values for text in value)
    known = {word.plain for word in words(question)}
    # Beside a number, what is written in capitals is its unit.
    proper = [name for name in names(statement) if not (values and name.isupper())]
    named = [word for name in proper for word in words(name) if word.plain not in known]
    if not values and not named:
        return {}
    in_question = index.scores(asked)
    added = {word: index.rarity(word) for word in content_words(statement)}
    in_statement = index.scores(added) if added else {}
    contexts = _contexts(index, asked)
    scores: dict[int, float] = {}
    for number, place in enumerate(index.sentences):
        context = contexts[place.source]
        if context < MIN_CONTEXT or in_question.get(number, 0.0) < MIN_IN_SENTENCE:
            continue
        if is_small and values and len(added) > 2 and in_statement.get(number, 0.0) < MIN_BESIDE_WORDS:
            continue
        if _holds_names(index, number, named, at_least_one=bool(values)) and _holds_values(index, number, values):
            scores[number] = (context + in_question.get(number, 0.0) + in_statement.get(number, 0.0)) / 3
    return scores


def _new(values: list[Value], known: list[Value]) -> list[Value]:
    return [value for value in values if not any(value & other for other in known)]


def _contexts(index: SentenceIndex, asked: Mapping[Word, float]) -> list[float]:
    """Return the share of the question that each source holds in all its sentences together."""
    total = sum(asked.values())
    contexts = [0.0] * len(index.sources)
    for word, weight in asked.items():
        for source in {index.sentences[sentence].source for sentence in index.matches(word)}:
            contexts[source] += weight / total
    return contexts


def _holds_names(index: SentenceIndex, sentence: int, named: list[Word], *, at_least_one: bool) -> bool:
    held = [sentence in index.matches(word) for word in named]
    return not held or (any(held) if at_least_one else all(held))


def _holds_values(index: SentenceIndex, sentence: int, values: list[Value]) -> bool:
    if not values:
        return True
    place = index.sentences[sentence]
    text = index.sources[place.source].text[place.start : place.end]
    held = [*written_values(text), *spoken_values(text)]
    return all(any(value & other for other in held) for value in values)


def is_polar(statement: str, question: str) -> bool:
    """Whether a statement says yes or no and nothing that the question does not."""
    found = re.findall(r"\w+", statement.casefold())
    if not found or found[0] not in _POLAR:
        return False
    known = {word.plain for word in words(question)}
    return all(text in _POLAR or text in STOP_WORDS or len(text) == 1 or _plain(text) <= known for text in found)


def _plain(text: str) -> set[str]:
    return {word.plain for word in words(text)}
