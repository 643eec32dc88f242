"""The encoding that a file names itself: byte order mark, XML declaration, HTML `meta`, editor's line."""

import codecs
import re

from aihub.documents.encodings.labels import codec_of

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
