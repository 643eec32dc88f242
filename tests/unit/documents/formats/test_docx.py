import io
import zipfile

import pytest
from document_files import docx, pdf, with_body, with_part

from aihub.documents.errors import DocumentError
from aihub.documents.extract import extract
from aihub.documents.options import ParseLimits

LIMITS = ParseLimits(max_characters=100_000)
DOCUMENT = "word/document.xml"


def text_of(data: bytes) -> str:
    file_format, text = extract("a.docx", data, LIMITS)
    assert file_format == "docx"
    return text


def code_of(data: bytes, filename: str = "a.docx") -> str:
    with pytest.raises(DocumentError) as caught:
        extract(filename, data, LIMITS)
    return caught.value.code


def test_paragraphs_and_tables_keep_their_order_and_shape() -> None:
    data = docx("Điều khoản chung", "Giá bán lẻ:", table=[["Tên", "Giá"], ["Áo dài", "500.000 đ"]])
    assert text_of(data) == "Điều khoản chung\n\nGiá bán lẻ:\n\nTên\tGiá\nÁo dài\t500.000 đ"


def test_a_docx_is_known_whatever_its_name() -> None:
    assert extract("report.pdf", docx("Xin chào"), LIMITS) == ("docx", "Xin chào")


def test_text_that_simple_readers_lose_is_read() -> None:
    xml = (
        "<w:p><w:r><w:t>Kept.</w:t><w:tab/><w:br/><w:t>Line.</w:t></w:r></w:p>"
        "<w:sdt><w:sdtContent><w:p><w:r><w:t>In a control.</w:t></w:r></w:p></w:sdtContent></w:sdt>"
        "<w:p><w:ins><w:r><w:t>Inserted.</w:t></w:r></w:ins><w:del><w:r><w:delText>Deleted.</w:delText></w:r></w:del></w:p>"
        "<w:p><w:hyperlink><w:r><w:t>Linked.</w:t></w:r></w:hyperlink></w:p>"
        "<w:p><w:pPr><w:tabs><w:tab w:val='left'/></w:tabs></w:pPr><w:r><w:t>Stops.</w:t></w:r></w:p>"
    )
    assert text_of(with_body(xml)) == "Kept.\nLine.\n\nIn a control.\n\nInserted.\n\nLinked.\n\nStops."


def test_a_text_box_is_read_once() -> None:
    box = "<w:p><w:r><w:t>Boxed.</w:t></w:r></w:p>"
    both = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent>"
    assert text_of(with_body(f"<w:p><w:r>{both}</w:r></w:p>")) == "Boxed."


def test_footnotes_follow_the_body() -> None:
    notes = b'<w:footnotes xmlns:w="urn:w"><w:footnote><w:p><w:r><w:t>A note.</w:t></w:r></w:p></w:footnote></w:footnotes>'
    assert text_of(with_part(docx("Body."), "word/footnotes.xml", lambda _: notes)) == "Body.\n\nA note."


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE d [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE d SYSTEM "http://127.0.0.1:9/x.dtd">',
    ],
)
def test_entities_are_refused(declaration: str) -> None:
    def declare(xml: bytes) -> bytes:
        body = xml[xml.index(b"?>") + 2 :].replace(b"TEXT", b"TEXT" if b'SYSTEM "http' in declaration.encode() else b"&b;")
        return b'<?xml version="1.0"?>' + declaration.encode() + body

    assert code_of(with_part(docx("TEXT"), DOCUMENT, declare)) == "invalid_file"


def test_a_zip_bomb_is_refused_before_it_is_opened() -> None:
    assert code_of(with_part(docx("x"), "word/media/image1.png", lambda _: bytes(30 * 2**20))) == "too_large"


def test_a_text_bomb_is_refused() -> None:
    paragraph = "<w:p><w:r><w:t>" + "bom " * 5000 + "</w:t></w:r></w:p>"
    assert code_of(with_body(paragraph * 8)) == "too_large"


def test_lying_sizes_are_damaged() -> None:
    data = bytearray(docx("Xin chào " * 500))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        member = archive.getinfo(DOCUMENT)
    entry = data.index(DOCUMENT.encode(), data.index(b"PK\x01\x02")) - 46
    data[entry + 24 : entry + 28] = (member.file_size // 4).to_bytes(4, "little")
    assert code_of(bytes(data)) == "invalid_file"


def test_an_encrypted_docx_is_reported() -> None:
    container = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le") + bytes(100)
    assert code_of(container) == "encrypted_file"


def test_old_and_foreign_office_files_are_not_supported() -> None:
    assert code_of(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.doc") == "unsupported_file"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    assert code_of(buffer.getvalue(), "a.xlsx") == "unsupported_file"


@pytest.mark.parametrize("keep", [40, 0.5, 0.95])
def test_a_cut_docx_is_damaged(keep: float) -> None:
    whole = docx("Xin chào")
    assert code_of(whole[: int(keep if keep > 1 else len(whole) * keep)]) == "invalid_file"


def test_broken_xml_is_damaged() -> None:
    assert code_of(with_part(docx("x"), DOCUMENT, lambda xml: xml[:-30])) == "invalid_file"
    assert code_of(with_part(docx("x"), "_rels/.rels", lambda _: b"<Relationships/>")) == "invalid_file"


def test_nesting_without_end_is_damaged() -> None:
    assert code_of(with_body("<w:tbl>" * 3000 + "</w:tbl>" * 3000)) == "invalid_file"


def test_a_docx_without_text_is_empty() -> None:
    assert code_of(docx("", "  ")) == "empty_file"


def test_a_pdf_named_docx_is_read_as_pdf() -> None:
    assert extract("a.docx", pdf("Hello."), LIMITS)[0] == "pdf"
