"""PDF to text with pypdf."""

import io

from pypdf import PasswordType, PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError

from aihub.documents.parsing.clean import BoundedText, DocumentError


def read_pdf(data: bytes, max_pages: int, max_characters: int) -> str:
    """Return the text of all pages, parted by blank lines.

    Raises:
        DocumentError: `encrypted_file`, `too_large`, `empty_file` when no page holds text, `invalid_file` when it is damaged.
    """
    reader = PdfReader(io.BytesIO(data), strict=False)
    _unlock(reader)
    pages = len(reader.pages)
    if pages > max_pages:
        raise DocumentError(f"The PDF has {pages:,} pages and at most {max_pages:,} are read; split it.", code="too_large")
    out = BoundedText(max_characters)
    for page in reader.pages:
        out.add(page.extract_text() + "\n\n")
    text = out.text()
    if not text.strip():
        raise DocumentError("The PDF holds no text. A scanned document must go through OCR first.", code="empty_file")
    return text


def _unlock(reader: PdfReader) -> None:
    """Open a PDF whose user password is empty (only printing or editing is locked); refuse the others."""
    if not reader.is_encrypted:
        return
    try:
        is_open = reader.decrypt("") != PasswordType.NOT_DECRYPTED
    except (DependencyError, FileNotDecryptedError, NotImplementedError):
        is_open = False
    if not is_open:
        raise DocumentError("The PDF is protected by a password; upload it without one.", code="encrypted_file")
