"""Which sentences hold the facts of a statement: its numbers, dates, times and names, brought to one form.

A short answer (`9 weeks`, `Yes.`, `Quade`) or one in other words shares too few words with its source. A sentence that holds all
its facts, in a source about the question, supports it; an answer of yes or no is supported by the sentence that the question
repeats. `1,250`, `1250` and `one thousand two hundred fifty` are one number.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping

from pipelines.sentence_index import STOP_WORDS, SentenceIndex, Word, content_words, words

Value = frozenset[str]
"""The ways one value may be read: `1.250` is 1250 or 1.25."""

_UNITS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VIETNAMESE = "một hai ba bốn năm sáu bảy tám chín mười"
_MONTHS = "january february march april may june july august september october november december".split()

_ADDENDS = (
    {word: number for number, word in enumerate(_UNITS.split(), 1)}
    | {word: number for number, word in enumerate(_ORDINALS.split(), 1)}
    | {word: 10 * number for number, word in enumerate(_TENS.split(), 2)}
    | {word: number for number, word in enumerate(_VIETNAMESE.split(), 1)}
    | {"mốt": 1, "lăm": 5, "tư": 4, "bẩy": 7}
)
_FACTORS = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "mươi": 10,
    "trăm": 100,
    "nghìn": 1000,
    "ngàn": 1000,
    "triệu": 10**6,
}
_AMBIGUOUS = frozenset({"one", "first", "second", "một", "năm", "tư", "mốt", "lăm", "hundred", "thousand", "million"})
"""Words that alone are seldom meant as a number: `năm` is a year, `một` an article."""

_TIME = re.compile(r"\b(\d{1,2})[:.h](\d{2})(?:\s*([ap])\.?m\b\.?)?", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,3}(?:[ .,\u00a0]\d{3})+(?!\d)|\d+(?:[.,]\d+)?")
_MULTIPLIER = re.compile(r"\s*(million|triệu|tr|thousand|nghìn|ngàn|k|billion|tỷ|tỉ)\b", re.IGNORECASE)
_MULTIPLIERS = {"k": 10**3, "thousand": 10**3, "nghìn": 10**3, "ngàn": 10**3, "billion": 10**9, "tỷ": 10**9, "tỉ": 10**9}
_MONTH = re.compile(rf"\b({'|'.join(_MONTHS)})\b(?=\s+\d)|(?<=\d)(?:st|nd|rd|th)?(?:\s+of)?\s+({'|'.join(_MONTHS)})\b")
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+)[\"“*(]*$")


def written_values(text: str) -> list[Value]:
    """Return numbers, dates and times written with digits."""
    text = unicodedata.normalize("NFC", text).lower()
    found: list[Value] = [frozenset({str(_MONTHS.index(match[1] or match[2]) + 1)}) for match in _MONTH.finditer(text)]

    def take_time(match: re.Match[str]) -> str:
        hour, minute = int(match[1]), int(match[2])
        if match[0][len(match[1])] == "." and not match[3] or hour > 23 or minute > 59:
            return match[0]
        hour = hour % 12 + 12 * (match[3] == "p") if match[3] else hour
        found.append(frozenset({f"{hour}:{minute:02}"}))
        return " "

    rest = _TIME.sub(take_time, text)
    for match in _NUMBER.finditer(rest):
        multiplier = _MULTIPLIER.match(rest, match.end())
        factor = _MULTIPLIERS.get(multiplier[1], 10**6) if multiplier else 1
        found.append(frozenset(_readings(match[0], factor)))
    return found


def spoken_values(text: str) -> list[Value]:
    """Return numbers written as words, English or Vietnamese."""
    words = _WORD.findall(unicodedata.normalize("NFC", text).lower())
    return [frozenset({str(number)}) for number in _spoken(words)]


def names(text: str) -> list[str]:
    """Return the capitalised words; one that begins a sentence only where another follows it (`Peyton Manning`)."""
    found: list[str] = []
    run: list[str] = []
    begins = True
    previous_end = 0
    text = unicodedata.normalize("NFC", text)
    for match in _WORD.finditer(text):
        gap = text[previous_end : match.start()]
        if not match[0][0].isupper() or gap.strip(" '’-"):
            found += run if len(run) > 1 or not begins else []
            run = []
        if match[0][0].isupper():
            begins = begins if run else _SENTENCE_START.search(text[: match.start()]) is not None
            run.append(match[0])
        previous_end = match.end()
    return [*found, *(run if len(run) > 1 or not begins else [])]


def _readings(digits: str, factor: int) -> Iterator[str]:
    if re.fullmatch(r"\d{1,3}(?:[ .,\u00a0]\d{3})+", digits):
        yield str(int(re.sub(r"\D", "", digits)) * factor)
    if not re.search(r"[.,].*[.,]|[ \u00a0]", digits):
        yield f"{float(digits.replace(',', '.')) * factor:.12g}"


def _spoken(words: list[str]) -> Iterator[int]:
    total = current = 0
    run: list[str] = []
    for word in [*words, ""]:
        if word in _ADDENDS:
            current += _ADDENDS[word]
        elif word in _FACTORS and run:
            current = max(current, 1) * _FACTORS[word]
            if _FACTORS[word] >= 1000:
                total, current = total + current, 0
            elif word == "mươi" and len(run) > 1:
                # The tens before belong to this word alone: "hai trăm ba mươi".
                current = _joined_tens(run)
        elif not (word == "and" and run):
            if run and not (len(run) == 1 and run[0] in _AMBIGUOUS):
                yield total + current
            total, current, run = 0, 0, []
            continue
        if word != "and":
            run.append(word)


def _joined_tens(run: list[str]) -> int:
    *before, tens = run
    value = 0
    for word in before:
        value = value * _FACTORS[word] if word in _FACTORS else value + _ADDENDS[word]
    return value + 10 * _ADDENDS.get(tens, 0)


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
