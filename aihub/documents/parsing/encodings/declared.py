"""The encoding that a file names itself (byte order mark, XML declaration, HTML `meta`, editor's line), as a Python codec."""

import codecs
import re

import webencodings

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
