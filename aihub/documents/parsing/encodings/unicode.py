"""Unicode text that is slightly wrong or undeclared: UTF-8 with a few broken bytes, UTF-16 without a byte order mark.

Text is in one script, bytes read wrongly are in many.
"""

import re
from collections.abc import Sequence

import regex

_SAMPLE_BYTES = 8192
_MIN_BYTES = 8
_TEXT = regex.compile(
    r"[\t\n\r\x20-\x7e\xa0-\u024f\u1e00-\u1eff\u2000-\u206f\u3000-\u303f\uff00-\uffef]"
    r"|\p{Cyrillic}|\p{Greek}|\p{Hebrew}|\p{Arabic}|\p{Thai}|\p{Han}|\p{Hiragana}|\p{Katakana}|\p{Hangul}"
)
_ASCII = regex.compile(r"[\t\n\r\x20-\x7e]")
_MIN_TEXT_SHARE = 0.98


def unmarked_utf16(data: bytes) -> str | None:
    """Return `utf-16-le` or `utf-16-be` for bytes with NULs that are text in one of them, else None.

    Every line end and blank of UTF-16 holds a NUL, and no other text does; the byte order is the one that gives letters of
    real scripts, with ASCII among them.
    """
    sample = data[:_SAMPLE_BYTES]
    if len(sample) < _MIN_BYTES or b"\0" not in sample:
        return None
    shares = {codec: _text_share(sample, codec) for codec in ("utf-16-le", "utf-16-be")}
    best = max(shares, key=lambda codec: shares[codec])
    return best if shares[best] >= _MIN_TEXT_SHARE and min(shares.values()) < shares[best] else None


def _text_share(sample: bytes, codec: str) -> float:
    """The share of characters that text is made of, 0 when no ASCII character is among them."""
    text = sample[: len(sample) // 2 * 2].decode(codec, "replace")
    return len(_TEXT.findall(text)) / len(text) if _ASCII.search(text) else 0.0


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


REPLACEMENT = "\ufffd"

_REPLACEMENT_BYTES = REPLACEMENT.encode()
# What Java and some databases write: characters beyond U+FFFF as two surrogates of three bytes each, and NUL in two bytes.
_SURROGATE_PAIR = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_LONG_NUL = b"\xc0\x80"
# Bytes that no old encoding has where they stand: a capital letter of any page right after a small Latin one, 0xFF, and signs
# that touch no letter.
_STRAY = re.compile(
    rb"(?<=[a-z])[\xc2-\xde](?![\x80-\xff])|(?<![\x80-\xff])\xff(?![\x80-\xff])|(?<![A-Za-z\x80-\xff])[\x80-\xbf](?![A-Za-z\x80-\xff])"
)
_HIGH = re.compile(rb"[\x80-\xff]")
_STRAY_SHARE = 100
_FEW = 4


def repair(data: bytes) -> str | None:
    """Return the text of UTF-8 in which broken sequences are at most as many as whole ones, else None.

    Each broken sequence is one U+FFFD. Surrogates written as three bytes are joined, a lone one is broken.
    """
    data = _SURROGATE_PAIR.sub(_joined, data).replace(_LONG_NUL, b"\0")
    surrogates = len(_SURROGATE.findall(data))
    if surrogates:
        data = _SURROGATE.sub(_REPLACEMENT_BYTES, data)
    text = data.decode("utf-8", "replace")
    replaced = text.count(REPLACEMENT)
    broken = replaced - data.count(_REPLACEMENT_BYTES)  # those that stand in the file were put there by another program
    whole = sum(not character.isascii() for character in text) - replaced + surrogates
    if whole == 0 or broken > whole:
        return None
    # Chinese, Japanese and Thai bytes of old encodings hold sequences that look whole, of letters from everywhere.
    is_mostly_whole = broken * _FEW <= whole
    return text if is_mostly_whole or script_of(letters_of(text)) is not None or not letters_of(text) else None


def repair_declared(data: bytes) -> str | None:
    """Return the text of a file that says it is UTF-8; None when so much is broken that it is not."""
    text = repair(data)
    if text is not None:
        return text
    text = data.decode("utf-8", "replace")
    return text if text.count(REPLACEMENT) <= max(1, len(text) // _STRAY_SHARE) else None


def repair_ascii(data: bytes) -> str | None:
    """Return the text of ASCII with a few bytes that cannot belong to any old encoding, each as U+FFFD; else None."""
    strays = len(_STRAY.findall(data))
    if strays != len(_HIGH.findall(data)) or strays > max(1, len(data) // _STRAY_SHARE):
        return None
    return data.decode("ascii", "replace")


def _joined(pair: re.Match[bytes]) -> bytes:
    return pair[0].decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass").decode("utf-16").encode()
