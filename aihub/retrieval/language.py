"""Which language a text is in, and how far vectors can be trusted for it.

Detection is py3langid's naive Bayes over byte n-grams (97 languages). Its model costs about one second and 80 MB the first
time it is needed in a process, so it is loaded then and never at import.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNKNOWN = "und"
"""ISO 639-2 code for "undetermined": no letters to judge by."""

_SAMPLE_CHARACTERS = 2000
_VIETNAMESE_ONLY = re.compile("[ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]", re.IGNORECASE)


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


MIN_STORE_SHARE = 0.02
"""Languages of fewer chunks of a store than this are taken for misjudged ones."""

FOREIGN_VECTOR_WEIGHT = 0.1
"""Weight of the vector ranking, BM25's being 1, for a language the embedder was not trained for."""


def store_languages(counts: Counter[str]) -> list[str]:
    """Return the languages a store's chunks are in, commonest first.

    Args:
        counts: Chunks per language.
    """
    total = sum(counts.values())
    return [language for language, count in counts.most_common() if count >= MIN_STORE_SHARE * total]


def query_language(query: str, languages: Sequence[str]) -> str:
    """Return the language of a query among those of the store it goes to; letters only Vietnamese has decide at once."""
    if _VIETNAMESE_ONLY.search(query):
        return "vi"
    if len(languages) == 1:
        return languages[0]
    return detect_language(query, languages or None)


def vector_weight(language: str, known: Collection[str]) -> float:
    """Return the weight of the vector ranking beside BM25's 1.

    With an English-only embedder, equal weights lower Vietnamese quality by a fifth (`make bench-retrieval`).

    Args:
        language: Of the query; `und` counts as known.
        known: Languages of the embedder; `*` stands for all.
    """
    return 1.0 if language == UNKNOWN or language in known or "*" in known else FOREIGN_VECTOR_WEIGHT
