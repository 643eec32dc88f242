"""The encoding that a file names itself (byte order mark, XML declaration, HTML `meta`, editor's line), and Unicode text that is
slightly wrong or undeclared: UTF-8 with a few broken bytes, UTF-16 without a mark. Text is in one script, bytes read wrongly are
in many.
"""

import codecs
import re
from collections.abc import Sequence

import regex
import webencodings

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


# Python's codec for a web encoding where it has another name, or where the web's is the larger set of the same name.
_CODECS = {
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
    "big5": "big5hkscs",
    "windows-874": "cp874",
    "ibm866": "cp866",
    "iso-8859-8-i": "iso8859-8",
    "macintosh": "mac-roman",
    "x-mac-cyrillic": "mac-cyrillic",
    "x-user-defined": "cp1252",
}
# Encodings of text that the web does not know: DOS, Macintosh and a few national pages.
_OTHER = re.compile(
    r"(cp|ibm)\d{3,4}|mac[_-]?[a-z]+|(iso-?)?2022[_-].+|koi8[_-]t|kz[_-]?1048|ptcp154|hz(-gb-2312)?|johab|(shift[_-]?jis|euc[_-]jis)[_-](2004|x0213)|big5[_-]?hkscs|utf[_-]?(7|32.{0,3})"
)


def codec_of(label: str) -> str | None:
    """Return the name of Python's codec for a label such as `windows-1254`, `latin1` or `cp850`; None for an unknown one.

    Labels are read as browsers read them: `iso-8859-1` is Windows-1252, `gb2312` is GB 18030.
    """
    name = label.strip().lower()
    known = webencodings.lookup(name)
    if known is not None and known.name != "replacement":
        return _CODECS.get(known.name, str(known.codec_info.name))
    if name == "iso-8859-11":
        return "cp874"
    if _OTHER.fullmatch(name):
        try:
            return codecs.lookup(name).name
        except LookupError:
            return None
    return None


# UTF-32 first: its little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WITHIN_BYTES = 4096
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_MARKUP = re.compile(rb"\s{0,99}<(?:!doctype\s+html|html|head|meta|body|\?xml)\b", re.IGNORECASE)
_XML = re.compile(rb"""\s{0,99}<\?xml\b[^>]{0,200}?\bencoding\s{0,9}=\s{0,9}["']([\w.:-]{2,40})["']""")
_META = re.compile(rb"""<meta\b[^>]{0,500}?\bcharset\s{0,9}=\s{0,9}["']?\s{0,9}([\w.:-]{2,40})""", re.IGNORECASE)
_EDITOR = re.compile(rb"\A[^\n]{0,200}(?:\n[^\n]{0,200})?-\*-[^\n]{0,99}?\bcoding:\s{0,9}([\w.-]{2,40})[^\n]{0,99}?-\*-")


def marked_encoding(data: bytes) -> tuple[int, str] | None:
    """Return the length of the byte order mark and the codec it stands for, or None without one."""
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return len(mark), codec
    return None


def declared_encoding(data: bytes, *, is_html: bool) -> str | None:
    """Return the codec that a file without a byte order mark names in its first 4 KiB, or None.

    Args:
        data: The file.
        is_html: Whether its name says that it is a web page, so that a `meta` counts in a fragment too.
    """
    head = data[:_WITHIN_BYTES]
    found = _XML.match(head) or _EDITOR.match(head)
    if found is None and (is_html or _MARKUP.match(_COMMENT.sub(b"", head))):
        found = _META.search(_COMMENT.sub(b"", head))
    if found is None:
        return None
    codec = codec_of(found[1].decode("ascii"))
    # Bytes in which an ASCII declaration can be read are not UTF-16, whatever it says.
    return "utf-8" if codec is not None and codec.startswith(("utf-16", "utf-32")) else codec
