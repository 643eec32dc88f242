"""UTF-16 without a byte order mark."""

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
