"""Files that try to break ingest, made in code."""

import io
import zipfile

from pypdf import PdfWriter

_DOCX_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>'
)
_DOCX_RELS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="rId1" Target="word/document.xml" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"/></Relationships>'
)
_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def encrypted_pdf() -> bytes:
    writer = PdfWriter()
    writer.add_blank_page(width=72, height=72)
    writer.encrypt("mật khẩu")
    return _written(writer)


def looping_pdf() -> bytes:
    """A page tree whose node is its own child."""
    return _pdf([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 2>>"])


def many_pages_pdf(pages: int) -> bytes:
    """`pages` pages, all of them the same object."""
    kids = b"3 0 R " * pages
    return _pdf(
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[" + kids + b"]/Count " + str(pages).encode() + b">>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>",
        ]
    )


def zip_bomb_docx(unpacked_bytes: int) -> bytes:
    return _docx(f"<w:document {_WORD}><w:body><w:p><w:r><w:t>".encode() + b"a" * unpacked_bytes)


def entity_bomb_docx() -> bytes:
    """Entities of entities: a few bytes that stand for billions."""
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    return _docx(
        f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY e0 "haha">{entities}]>'
        f"<w:document {_WORD}><w:body><w:p><w:r><w:t>&e11;</w:t></w:r></w:p></w:body></w:document>".encode()
    )


def external_entity_docx(path: str) -> bytes:
    """Asks the parser to read a file of the server into the text."""
    return _docx(
        f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY leak SYSTEM "file://{path}">]>'
        f"<w:document {_WORD}><w:body><w:p><w:r><w:t>Trước &leak; sau</w:t></w:r></w:p></w:body></w:document>".encode()
    )


def _docx(document: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", _DOCX_TYPES)
        archive.writestr("_rels/.rels", _DOCX_RELS)
        archive.writestr("word/document.xml", document)
    return buffer.getvalue()


def _written(writer: PdfWriter) -> bytes:
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def _pdf(objects: list[bytes]) -> bytes:
    body, offsets = b"%PDF-1.7\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += str(number).encode() + b" 0 obj\n" + content + b"\nendobj\n"
    table = b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    size = str(len(objects) + 1).encode()
    return (
        body
        + b"xref\n0 "
        + size
        + b"\n0000000000 65535 f \n"
        + table
        + b"trailer\n<</Root 1 0 R/Size "
        + size
        + b">>\nstartxref\n"
        + str(len(body)).encode()
        + b"\n%%EOF\n"
    )
