"""From the bytes of any supported file to clean text; its content says what it is, its name where content cannot tell.

Runs in the limited parser process.
"""

import codecs
import logging
import re
from pathlib import PurePath
from typing import Literal

import regex

from aihub.documents.parsing.clean import DocumentError, clean, tidy, too_many_characters
from aihub.documents.parsing.formats.csv import read_csv
from aihub.documents.parsing.formats.docx import is_docx, read_docx
from aihub.documents.parsing.formats.html import read_html
from aihub.documents.parsing.formats.json import read_json
from aihub.documents.parsing.formats.pdf import read_pdf
from aihub.documents.parsing.formats.rtf import read_rtf
from aihub.documents.parsing.formats.text import decode
from aihub.documents.parsing.options import DocumentFormat, ParseLimits

_SUFFIXES: dict[str, DocumentFormat] = {
    ".md": "md",
    ".markdown": "md",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
}
_BINARY_SUFFIXES = frozenset({".pdf", ".docx", ".doc", ".xlsx", ".pptx", ".odt", ".rtf"})
_PDF_HEADER_WITHIN = 1024
_RTF = b"{\\rtf"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_OFFICE = "EncryptedPackage".encode("utf-16-le")
_HTML = re.compile(r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


def binary_format(filename: str, data: bytes) -> Literal["pdf", "docx", "rtf"] | None:
    """Return the binary format of `data`, or None when it may be text.

    Raises:
        DocumentError: It is another Office format or archive, or an encrypted Office file.
    """
    start = data[:_PDF_HEADER_WITHIN]
    if start.lstrip().startswith(b"%PDF-") or (_suffix(filename) == ".pdf" and b"%PDF-" in start):
        return "pdf"
    if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(_RTF):
        return "rtf"
    if data.startswith(b"PK\x03\x04"):
        if is_docx(data):
            return "docx"
        raise DocumentError("The file is an archive or Office file other than DOCX, which is not read.", code="unsupported_file")
    if data.startswith(_OLE):
        if _ENCRYPTED_OFFICE in data:
            raise DocumentError("The Office file is protected by a password; upload it without one.", code="encrypted_file")
        raise DocumentError("The file is in the old Office format; save it as DOCX or PDF.", code="unsupported_file")
    return None


def text_format(filename: str, text: str) -> DocumentFormat:
    """Return the format of decoded text. Text of no known suffix is plain text.

    Raises:
        DocumentError: `invalid_file` when the name promises a binary format that this is not.
    """
    suffix = _suffix(filename)
    if _HTML.match(text, 0, _PDF_HEADER_WITHIN):
        return "html"
    if suffix in _BINARY_SUFFIXES:
        raise DocumentError(f"The file is named {suffix} but its content is something else; give it the right suffix.")
    return _SUFFIXES.get(suffix, "txt")


def is_html_name(filename: str) -> bool:
    """Whether the name is one of a web page."""
    return _SUFFIXES.get(_suffix(filename)) == "html"


def _suffix(filename: str) -> str:
    return PurePath(filename).suffix.lower()


_VISIBLE = regex.compile(r"[\p{L}\p{N}\p{P}\p{S}]")
_MAX_BYTES_PER_CHARACTER = 4

logger = logging.getLogger(__name__)


def extract(
    filename: str,
    data: bytes,
    limits: ParseLimits,
    *,
    encoding: str | None = None,
    text_format: DocumentFormat | None = None,
) -> tuple[DocumentFormat, str]:
    """Return the format and the text of a file; plain text and Markdown keep their layout, so offsets fit the file too.

    Args:
        filename: Its suffix tells formats apart that look the same.
        data: The file.
        limits: Of pages and characters.
        encoding: Python's codec for the encoding that the upload named; formats that carry their own ignore it.
        text_format: When given, `data` is the text of a file of this format, in UTF-8, and is taken as it is.

    Raises:
        DocumentError: The file cannot be read; `code` says why.
        ValueError: A text that is given is not as `clean` leaves it: offsets into it would not fit what is stored.
    """
    if text_format is not None:
        return text_format, _given(data.decode(), limits)
    if not data:
        raise DocumentError("The file is empty.", code="empty_file")
    try:
        file_format, text = _read(filename, data, limits, encoding)
    except (DocumentError, MemoryError):
        raise
    except Exception as error:
        # Damaged files bring up every kind of exception in the libraries; all of them are the file's fault.
        logger.info("unreadable file", exc_info=True)
        raise DocumentError(f"The file is damaged and cannot be read ({type(error).__name__}); save it again.") from error
    text = clean(text) if file_format in {"txt", "md"} else tidy(clean(text))
    return file_format, _checked(text, limits)


def _given(text: str, limits: ParseLimits) -> str:
    if clean(text) != text:
        raise ValueError("the text is not in its normal form")
    return _checked(text, limits)


def _checked(text: str, limits: ParseLimits) -> str:
    if len(text) > limits.max_characters:
        raise too_many_characters(limits.max_characters)
    if _VISIBLE.search(text) is None:
        raise DocumentError("The file holds no readable text.", code="empty_file")
    return text


def _read(filename: str, data: bytes, limits: ParseLimits, encoding: str | None) -> tuple[DocumentFormat, str]:
    binary = binary_format(filename, data)
    if binary == "pdf":
        return binary, read_pdf(data, limits.max_pages, limits.max_characters)
    if binary == "docx":
        return binary, read_docx(data, limits.max_characters)
    if binary == "rtf":
        return binary, read_rtf(data, limits.max_characters)
    if len(data) > limits.max_characters * _MAX_BYTES_PER_CHARACTER:
        raise too_many_characters(limits.max_characters)
    text = decode(data, encoding=encoding, is_html=is_html_name(filename)).replace("\0", "")
    file_format = text_format(filename, text)
    match file_format:
        case "html":
            text = read_html(text, limits.max_characters)
        case "csv":
            text = read_csv(text, limits.max_characters)
        case "json":
            text = read_json(text, limits.max_characters)
    return file_format, text
