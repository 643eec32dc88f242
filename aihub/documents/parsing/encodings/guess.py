"""The old encoding of undeclared text, told only when two independent detectors and the language of the result agree.

A wrong guess is worse than none: it is indexed as words that nobody searches for, and nothing says so.
"""

import re
import unicodedata
from collections.abc import Iterable

import chardet
import chardetng_py
import regex

from aihub.core.language import likely_languages
from aihub.documents.parsing.encodings.declared import codec_of, letters_of, script_of

_NORDIC = "æøåéòóôüäö"
_SOUTH_SLAVIC = "čćđšž"
_VIETNAMESE = "àảãáạăằẳẵắặâầẩẫấậđèẻẽéẹêềểễếệìỉĩíịòỏõóọôồổỗốộơờởỡớợùủũúụưừửữứựỳỷỹýỵ"

ALPHABETS: dict[str, frozenset[str]] = {
    language: frozenset(letters)
    for language, letters in {
        "en": "éèêïñçö",
        "fr": "àâæçéèêëîïôœùûü",
        "de": "äöüßéàè",
        "es": "áéíñóúüç",
        "it": "àèéìíîòóùú",
        "pt": "áàâãçéêíóôõúü",
        "nl": "áéëïóöüèêç",
        "sv": "åäöéàü",
        "da": _NORDIC,
        "no": _NORDIC,
        "nb": _NORDIC,
        "nn": _NORDIC,
        "fi": "äöåšžé",
        "is": "áðéíóúýþæö",
        "fo": "áðíóúýæø",
        "ca": "àçèéíïòóúü",
        "gl": "áéíñóúüï",
        "eu": "ñçü",
        "ga": "áéíóú",
        "sq": "çë",
        "id": "é",
        "ms": "é",
        "tl": "ñ",
        "af": "áéèêëîïôöûü",
        "pl": "ąćęłńóśźż",
        "cs": "áčďéěíňóřšťúůýž",
        "sk": "áäčďéíĺľňóôŕšťúýž",
        "hu": "áéíóöőúüű",
        "ro": "ăâîşţșț",
        "hr": _SOUTH_SLAVIC,
        "bs": _SOUTH_SLAVIC,
        "sr": _SOUTH_SLAVIC,
        "sl": _SOUTH_SLAVIC,
        "tr": "çğıöşüâîû",
        "az": "çəğıöşü",
        "et": "äõöüšž",
        "lv": "āčēģīķļņšūž",
        "lt": "ąčęėįšųūž",
        "vi": _VIETNAMESE,
    }.items()
}


def foreign_letters(letters: Iterable[str], language: str) -> int:
    """Return how many of the lower-case letters beyond ASCII are none of the language's.

    Args:
        letters: As often as they occur.
        language: ISO 639-1 code, one of `ALPHABETS`.
    """
    alphabet = ALPHABETS[language]
    return sum(letter not in alphabet for letter in letters)


_SAMPLE_BYTES = 65_536
_HIGH = re.compile(rb"[\x80-\xff]")
# Some signs of Windows pages are letters of ISO pages; only the no-break space and the degree sign are not.
_MAY_BE_LETTER = re.compile(rb"[\x80-\xff]{2}|[A-Za-z][\xa1-\xaf\xb1-\xff]|[\xa1-\xaf\xb1-\xff][A-Za-z]")
# Quotes, dashes and signs: single ones among ASCII are the same whichever page it is.
_SAME_IN_WINDOWS = bytes(
    byte
    for byte in range(128, 256)
    if len({bytes([byte]).decode(f"cp{page}", "replace") for page in range(1250, 1259)} - {"\ufffd"}) == 1
)
_LATIN_CODECS = ("cp1252", "cp1250", "cp1254", "cp1257", "iso8859-2")
_PAGES = {
    **dict.fromkeys(("bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl", "sq", "sr"), {"cp1250", "iso8859-2"}),
    **dict.fromkeys(("et", "lt", "lv"), {"cp1257"}),
    **dict.fromkeys(("az", "tr"), {"cp1254"}),
    "vi": {"cp1258"},
}
_WESTERN = {"cp1252"}
# Pages that were hardly ever written in: a short text in one of them is more likely something else.
_RARE = re.compile(r"iso8859-(3|4|6|8|10|13|14|16)|mac.*|hz|johab|cp(437|720|737|775|85\d|86[0-57-9])")
_SHORT_LETTERS = 12
_MIDDLE_LETTERS = 25
_MIN_LETTERS_OF_OTHER_SCRIPTS = 4
_MIN_LETTERS_TO_OVERRULE = 8
_FEW_EAST_ASIAN_LETTERS = 8
_FOREIGN_SHARE = 0.04
# Nobody writes a capital letter or a sign inside a word. Middle dots are Catalan, the ordinal signs stand after numbers.
_ODD = regex.compile(
    r"\p{Ll}(?=[^\x00-\x7f])\p{Lu}|\p{L}[\x80-\x9f\xa1-\xa9\xab-\xb4\xb6\xb8\xb9\xbb-\xbf\xd7\xf7]\p{L}|[\x80-\x9f]"
)
# Vietnamese typed for VNI fonts: the mark is a second vowel.
_DOUBLED_VOWEL = re.compile("([aeiou])(?=\\1[\u0300-\u036f])", re.IGNORECASE)
# A consonant with at most one vowel sign and one tone mark, a vowel before a consonant, signs and digits.
_THAI = regex.compile(
    r"(?:[\x00-\x7f\xa0]|[\u0e01-\u0e2e](?:[\u0e31\u0e34-\u0e3a\u0e47][\u0e48-\u0e4e]?|[\u0e48-\u0e4e])?"
    r"|[\u0e40-\u0e44](?=[\u0e01-\u0e2e])|[\u0e30\u0e32\u0e33\u0e2f\u0e46\u0e50-\u0e59])+"
)


def guess_codec(data: bytes) -> str | None:
    """Return the codec that undeclared bytes other than UTF-8 are in, or None when it is not sure.

    Both detectors must read the same text; it must be in one script, look like words, and hold only letters of a language
    that it is likely in. Of a short text, no other page may give words of another language.
    """
    if not _MAY_BE_LETTER.search(data) and not _HIGH.search(data.translate(None, _SAME_IN_WINDOWS)):
        return "cp1252"
    sample = _sample(data)
    found = chardet.detect(sample)
    language = found["language"] or ""
    texts: dict[str, str] = {}  # codec of each distinct reading
    for label in (chardetng_py.detect(sample), found["encoding"] or ""):
        codec = codec_of(label)
        text = None if codec is None else _decoded(sample, codec)
        if codec is None or text is None:
            return None
        texts.setdefault(text, codec)
    foreign = {text: _foreign_letters(sample, text, codec, language) for text, codec in texts.items()}
    best = min(foreign, key=lambda text: (foreign[text] is None, foreign[text] or 0))
    if foreign[best] is None or not all(_is_settled(text, best, foreign) for text in texts):
        return None
    return texts[best]


def _is_settled(text: str, best: str, foreign: dict[str, int | None]) -> bool:
    """Whether `text` is no rival of the best reading: implausible or worse, and in Latin letters enough to say so."""
    if text == best:
        return True
    count, least = foreign[text], foreign[best] or 0
    letters = letters_of(best)
    return (
        (count is None or count > least)
        and len(letters) >= _MIN_LETTERS_TO_OVERRULE
        and script_of(letters, _tolerance(letters)) == "Latin"
    )


def _sample(data: bytes) -> bytes:
    """The lines with bytes beyond ASCII, up to 64 KiB, cut where no character can be torn."""
    if len(data) <= _SAMPLE_BYTES:
        return data
    lines, size_bytes = [], 0
    for line in data.splitlines(keepends=True):
        high = _HIGH.search(line)
        if high is None:
            continue
        piece = line
        if len(line) > _SAMPLE_BYTES:
            piece = line[max(0, high.start() - 1000) :][:_SAMPLE_BYTES].rpartition(b" ")[0] or line[:_SAMPLE_BYTES]
        lines.append(piece)
        size_bytes += len(piece)
        if size_bytes >= _SAMPLE_BYTES:
            break
    return b"".join(lines)


def _decoded(sample: bytes, codec: str) -> str | None:
    try:
        return unicodedata.normalize("NFC", sample.decode(codec))
    except UnicodeDecodeError:
        return None


def _foreign_letters(sample: bytes, text: str, codec: str, language: str) -> int | None:
    """How many letters the likeliest language does not have; None when the reading is not plausible."""
    letters = letters_of(text)
    odd = len(_ODD.findall(text))
    if odd > _tolerance(letters) * len(letters) or (len(letters) < _MIDDLE_LETTERS and _RARE.fullmatch(codec)):
        return None
    script = script_of(letters, _tolerance(letters))
    if script is None:
        return None if letters else 0
    if script == "Latin":
        return _foreign_latin_letters(sample, text, letters, language)
    if script == "East Asian":
        thai = _decoded(sample, "cp874") if len(letters) < _FEW_EAST_ASIAN_LETTERS else None
        return None if thai is not None and _THAI.fullmatch(thai) else odd
    return odd if len(letters) >= _MIN_LETTERS_OF_OTHER_SCRIPTS else None


def _tolerance(letters: list[str]) -> float:
    return _FOREIGN_SHARE if len(letters) >= _MIDDLE_LETTERS else 0.0


def _foreign_latin_letters(sample: bytes, text: str, letters: list[str], language: str) -> int | None:
    likely = likely_languages(text)
    foreign = {known: foreign_letters(letters, known) for known in (language, *likely) if known in ALPHABETS}
    fitting = {known: count for known, count in foreign.items() if count <= _tolerance(letters) * len(letters)}
    if "vi" in fitting and _DOUBLED_VOWEL.search(unicodedata.normalize("NFD", text)):
        return None
    if len(letters) < _SHORT_LETTERS:
        fitting = {k: n for k, n in fitting.items() if k == likely[0] or (k == language and k in likely)}
    if not fitting:
        return None
    if len(letters) < _MIDDLE_LETTERS and any(_has_other_words(sample, text, codec) for codec in _LATIN_CODECS):
        return None
    return min(fitting.values())


def _has_other_words(sample: bytes, text: str, codec: str) -> bool:
    """Whether a page gives another text that is as good: in a language written in that page."""
    other = _decoded(sample, codec)
    if other is None or other == text or _ODD.search(other):
        return False
    letters = letters_of(other)
    return any(
        codec in _PAGES.get(language, _WESTERN) and not foreign_letters(letters, language)
        for language in likely_languages(other)
        if language in ALPHABETS
    )
