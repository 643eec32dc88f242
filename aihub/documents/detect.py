"""What a file is: by its content first, by its name where content cannot tell."""

import codecs
import re
from pathlib import PurePath
from typing import Literal

from aihub.documents.errors import DocumentError
from aihub.documents.formats.docx import is_docx
from aihub.documents.parsed import DocumentFormat

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
