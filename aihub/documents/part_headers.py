"""What the headers of a multipart part say of its file: the name, in the ways clients write it, and the charset."""

import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from urllib.parse import unquote

from python_multipart.multipart import parse_options_header

from aihub.core.errors import InvalidRequestError
from aihub.documents.parsing.encodings.declared import codec_of

# RFC 7578 forbids it in forms; .NET, aiohttp and others send it beside `filename`, or alone.
_EXTENDED = re.compile(r"""(?:^|;)\s*filename\*\s*=\s*"?([\w.:-]{1,40})'[\w-]*'([^;"]*)"?""", re.IGNORECASE)
_QUOTED = re.compile(r'(?<=name)\s*=\s*"(?:[^"\\]|\\.)*"', re.IGNORECASE)
_PLAIN = re.compile(rb"(?:^|;)\s*filename\s*=", re.IGNORECASE)
# Browsers and httpx write these three so inside quotes (WHATWG), and nothing else.
_FORM_ESCAPES = re.compile("%(22|0D|0A)", re.IGNORECASE)
_ENCODED_WORD = re.compile(r"=\?[\w-]{2,40}\?[bq]\?[^?]*\?=", re.IGNORECASE)
_NO_TEXT = frozenset({"binary"})


def names_file(content_disposition: bytes) -> bool:
    """Whether the header names a file in any way."""
    return _PLAIN.search(content_disposition) is not None or _extended(content_disposition) is not None


def file_name(content_disposition: bytes, plain: str) -> str:
    """Return the name of the file.

    Args:
        content_disposition: The header's value as it came.
        plain: Its parameter `filename`, decoded; empty when it has none.
    """
    extended = _extended(content_disposition)
    if extended is not None:
        return extended
    if _ENCODED_WORD.search(plain):
        try:
            return str(make_header(decode_header(plain)))
        except (HeaderParseError, LookupError, ValueError):
            return plain
    return _FORM_ESCAPES.sub(lambda escape: chr(int(escape[1], 16)), plain)


def text_encoding(content_type: str) -> str | None:
    """Return Python's codec for the `charset` of a part's Content-Type, None without one.

    Raises:
        InvalidRequestError: The charset is unknown.
    """
    _, options = parse_options_header(content_type)
    label = options.get(b"charset", b"").decode("latin-1").strip("'\" ")
    if not label or label.lower() in _NO_TEXT:
        return None
    codec = codec_of(label)
    if codec is None:
        raise InvalidRequestError(
            f"The file's Content-Type names the unknown charset {label[:40]!r}. "
            "Use one such as utf-8, windows-1254 or gbk, or none.",
            param="file",
        )
    # Clients call plain text ASCII that is UTF-8; in ASCII alone both are the same.
    return None if label.lower() in {"us-ascii", "ascii"} else codec


def _extended(content_disposition: bytes) -> str | None:
    found = _EXTENDED.search(_QUOTED.sub('=""', content_disposition.decode("latin-1")))
    if found is None:
        return None
    try:
        return unquote(found[2].strip(), encoding=found[1], errors="strict")
    except (LookupError, UnicodeDecodeError):
        return None
