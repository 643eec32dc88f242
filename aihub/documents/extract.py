"""From the bytes of any supported file to clean text. Runs in the limited parser process."""

import logging

import regex

from aihub.documents.clean import clean, tidy, too_many_characters
from aihub.documents.detect import binary_format, is_html_name, text_format
from aihub.documents.errors import DocumentError
from aihub.documents.formats.csv import read_csv
from aihub.documents.formats.docx import read_docx
from aihub.documents.formats.html import read_html
from aihub.documents.formats.json import read_json
from aihub.documents.formats.pdf import read_pdf
from aihub.documents.formats.rtf import read_rtf
from aihub.documents.formats.text import decode
from aihub.documents.options import ParseLimits
from aihub.documents.parsed import DocumentFormat

_VISIBLE = regex.compile(r"[\p{L}\p{N}\p{P}\p{S}]")
_MAX_BYTES_PER_CHARACTER = 4

logger = logging.getLogger(__name__)


def extract(filename: str, data: bytes, limits: ParseLimits, *, encoding: str | None = None) -> tuple[DocumentFormat, str]:
    """Return the format and the text of a file; plain text and Markdown keep their layout, so offsets fit the file too.

    Args:
        filename: Its suffix tells formats apart that look the same.
        data: The file.
        limits: Of pages and characters.
        encoding: Python's codec for the encoding that the upload named; formats that carry their own ignore it.

    Raises:
        DocumentError: The file cannot be read; `code` says why.
    """
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
    if len(text) > limits.max_characters:
        raise too_many_characters(limits.max_characters)
    if _VISIBLE.search(text) is None:
        raise DocumentError("The file holds no readable text.", code="empty_file")
    return file_format, text


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
