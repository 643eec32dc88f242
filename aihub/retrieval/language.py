"""Which language a text is in, and how far vectors can be trusted for it.

Detection is py3langid's naive Bayes over byte n-grams (97 languages). Its model costs about one second and 80 MB the first
time it is needed in a process, so it is loaded then and never at import.
"""

from collections.abc import Collection
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNKNOWN = "und"
"""ISO 639-2 code for "undetermined": no letters to judge by."""

_SAMPLE_CHARACTERS = 2000


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def detect_language(text: str, candidates: Collection[str] | None = None) -> str:
    """Return the ISO 639-1 code of the likeliest language of `text`, or `und` when it has no letters.

    Args:
        text: Any length; the first 2,000 characters decide.
        candidates: Only these codes are considered; all 97 when None. Codes the model does not know are left out.
    """
    sample = text[:_SAMPLE_CHARACTERS]
    if not any(character.isalpha() for character in sample):
        return UNKNOWN
    for language, _ in _identifier().rank(sample):
        if candidates is None or language in candidates:
            return str(language)
    return UNKNOWN
