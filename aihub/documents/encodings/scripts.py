"""The script that letters beyond ASCII belong to: text is in one, bytes read wrongly are in many."""

from collections.abc import Sequence

import regex

_LETTER = regex.compile(r"[^\P{L}\p{Lm}\x00-\x7f]")  # modifiers as the Japanese long vowel belong to no script
_SCRIPTS = {
    "Latin": regex.compile(r"\p{Latin}"),
    "Cyrillic": regex.compile(r"\p{Cyrillic}"),
    "Greek": regex.compile(r"\p{Greek}"),
    "Hebrew": regex.compile(r"\p{Hebrew}"),
    "Arabic": regex.compile(r"\p{Arabic}"),
    "Thai": regex.compile(r"\p{Thai}"),
    "East Asian": regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}]"),
}


def letters_of(text: str) -> list[str]:
    """Return the letters of `text` beyond ASCII in lower case, as often as they occur."""
    found: list[str] = _LETTER.findall(text.lower())
    return found


def script_of(letters: Sequence[str], tolerance: float = 0.0) -> str | None:
    """Return the script of all letters but a share of at most `tolerance` (0 to 1); None when there is none, or no letter."""
    for script, pattern in _SCRIPTS.items():
        if letters and sum(pattern.match(letter) is None for letter in letters) <= tolerance * len(letters):
            return script
    return None
