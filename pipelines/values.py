"""Numbers, dates, times and names in text, brought to one form: `1,250`, `1250` and `one thousand two hundred fifty` are one."""

import re
import unicodedata
from collections.abc import Iterator

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
