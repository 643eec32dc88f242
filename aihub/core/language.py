"""Which language a text is in.

py3langid's naive Bayes over byte n-grams. Its model takes about a second to load and 80 MB, so it is loaded on first use: in the
processes that read documents. Questions are judged without it (`aihub.documents.search.query_language`).
"""

import unicodedata
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier


UNKNOWN = "und"
"""ISO 639-2 code for "undetermined": no letters to judge by."""

_SAMPLE_CHARACTERS = 1000


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def detect_language(text: str) -> str:
    """Return the ISO 639-1 code of the likeliest language of `text`, or `und` when it has no letters.

    The first 1,000 characters decide. Languages without a two-letter code are left out: short English and Vietnamese texts
    pass for pidgins and dialects too easily.
    """
    return next(iter(likely_languages(text, most=1)), UNKNOWN)


def likely_languages(text: str, *, most: int = 3) -> list[str]:
    """Return the ISO 639-1 codes of at most `most` languages, the likeliest first; none when `text` has no letters."""
    sample = text[:_SAMPLE_CHARACTERS]
    if not any(character.isalpha() for character in sample):
        return []
    ranked = (str(language) for language, _ in _identifier().rank(sample))
    return list(islice((language for language in ranked if len(language) == 2), most))


_VIETNAMESE_ONLY = frozenset("đơưă")
_HOOK_AND_DOT = frozenset("\u0309\u0323")
_TONES = frozenset("\u0300\u0301\u0303\u0309\u0323")
_CIRCUMFLEX = "\u0302"


def has_vietnamese_letters(text: str) -> bool:
    """Say whether `text` has a letter that only Vietnamese uses: đ ơ ư ă, a hook or a dot below, or two marks on one vowel."""
    for character in set(unicodedata.normalize("NFC", text).lower()):
        marks = set(unicodedata.normalize("NFD", character)[1:])
        if character in _VIETNAMESE_ONLY or marks & _HOOK_AND_DOT or (_CIRCUMFLEX in marks and marks & _TONES):
            return True
    return False
