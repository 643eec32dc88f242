"""Text to the words that searches compare: case, compatibility forms and, where asked, diacritics do not matter.

Words are runs of letters, digits and marks after NFKC and case folding. Scripts without spaces give pairs of adjacent characters.
"""

import unicodedata
from collections.abc import Iterator

import regex

MAX_WORD_CHARACTERS = 64
"""Longer words are encoded data and are cut."""

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(r"[\p{L}\p{N}\p{M}]+")
_UNSPACED_RUN = regex.compile(rf"(?V1)([{_UNSPACED}][{_UNSPACED}\p{{M}}]*+)")
_GRAPHEME = regex.compile(r"\X")
# Soft hyphens, joiners, and the vowel signs and stretching that Arabic and Hebrew are mostly written without.
_OPTIONAL = regex.compile(r"[\u00ad\u200b-\u200d\ufeff\u0640\u064b-\u0652\u0670\u0591-\u05c7]+")
_DIACRITICS = regex.compile(r"[\u0300-\u036f]+")
_NO_DECOMPOSITION = str.maketrans({"đ": "d", "ø": "o", "ł": "l", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe"})


def split_words(text: str) -> list[str]:
    """Return the words of a text, folded, in their order."""
    folded = _OPTIONAL.sub("", unicodedata.normalize("NFKC", text).casefold())
    words: list[str] = [word[:MAX_WORD_CHARACTERS] for word in _WORD.findall(folded)]
    if _UNSPACED_RUN.search(folded) is None:
        return words
    # Each run anew from the whole text: the cut above is for words of spaced scripts.
    return [part for word in _WORD.findall(folded) for run in _UNSPACED_RUN.split(word) if run for part in _parts(run)]


def without_marks(word: str) -> str:
    """Return a folded word without its diacritics: `mua` for "mưa", `da` for "đá"."""
    if word.isascii():
        return word
    return unicodedata.normalize("NFC", _DIACRITICS.sub("", unicodedata.normalize("NFD", word))).translate(_NO_DECOMPOSITION)


def _parts(run: str) -> Iterator[str]:
    """Pairs of adjacent characters of a run in an unspaced script; any other run as it is."""
    if _UNSPACED_RUN.match(run) is None:
        yield run[:MAX_WORD_CHARACTERS]
        return
    characters = _GRAPHEME.findall(run)
    if len(characters) == 1:
        yield run
    for left, right in zip(characters, characters[1:], strict=False):
        yield left + right
