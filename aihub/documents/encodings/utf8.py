"""UTF-8 with a few broken bytes: the bad ones become U+FFFD and the rest stays."""

import re

from aihub.documents.encodings.scripts import letters_of, script_of

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
