import io
import zipfile

import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.options import ParseLimits
from tests.unit.documents.document_files import WORD, docx, pdf, with_body, with_part

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


def run(text: str, properties: str = "") -> str:
    return f"<w:r><w:rPr>{properties}</w:rPr><w:t xml:space='preserve'>{text}</w:t></w:r>"


def paragraph(content: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr>{content}</w:p>"


def row(*cells: str, properties: str = "") -> str:
    return f"<w:tr><w:trPr>{properties}</w:trPr>" + "".join(f"<w:tc>{cell}</w:tc>" for cell in cells) + "</w:tr>"


MOVED = "<w:moveFrom w:id='1'>" + run("moved") + "</w:moveFrom>"
DELETED_MARK = "<w:rPr><w:del w:id='3'/></w:rPr>"
FIELD = "<w:r><w:fldChar w:fldCharType='{}'/></w:r>"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (paragraph(MOVED) + paragraph("<w:moveTo w:id='2'>" + run("moved") + "</w:moveTo>"), "moved"),
        (paragraph("<w:del>" + run("gone") + "</w:del>" + run("stays")), "stays"),
        (paragraph(run("one "), DELETED_MARK) + paragraph(run("line")), "one line"),
        (paragraph("<w:ins>" + run("new") + "</w:ins>"), "new"),
        (
            "<w:tbl>" + row(paragraph(run("a"))) + row(paragraph(run("gone")), properties="<w:del w:id='1'/>")
            + row(paragraph(run("b")), properties="<w:ins w:id='2'/>") + "</w:tbl>",
            "a\nb",
        ),
        (
            "<w:tbl>" + row("<w:tcPr><w:cellDel w:id='1'/></w:tcPr>"
            + paragraph(run("gone")), paragraph(run("kept"))) + "</w:tbl>",
            "kept",
        ),
        ("<w:tbl>" + row(paragraph(run("gone")), properties="<w:hidden/>") + row(paragraph(run("a"))) + "</w:tbl>", "a"),
        (
            "<w:tbl>" + row("<w:tbl>" + row(paragraph(run("gone")), properties="<w:del/>")
            + row(paragraph(run("in"))) + "</w:tbl>"
            + paragraph(run("out"))) + "</w:tbl>",
            "in\n\nout",
        ),
        (paragraph(run("hidden", "<w:vanish/>") + run("shown")), "shown"),
        (paragraph(run("shown", "<w:vanish w:val='0'/>") + run("hidden", "<w:vanish w:val='true'/>")), "shown"),
        (paragraph(run("shown"), "<w:rPr><w:vanish/></w:rPr>"), "shown"),
        (paragraph(run("hidden", "<w:rStyle w:val='Secret'/>") + run("shown")), "shown"),
        (paragraph(run("hidden"), "<w:pStyle w:val='Child'/>") + paragraph(run("shown"), "<w:pStyle w:val='Open'/>"), "shown"),
        (paragraph(run("hidden") + run("shown", "<w:vanish w:val='0'/>"), "<w:pStyle w:val='Child'/>"), "shown"),
        (
            paragraph(FIELD.format("begin") + "<w:r><w:instrText>IF </w:instrText></w:r>" + run("code") + FIELD.format("separate")
            + run("result") + FIELD.format("end") + run(" after")),
            "result after",
        ),
        (paragraph(FIELD.format("begin") + run("code")) + paragraph(run("the rest")), "the rest"),
        (
            paragraph("<w:sdt><w:sdtPr><w:showingPlcHdr/></w:sdtPr><w:sdtContent>" + run("Click here") + "</w:sdtContent></w:sdt>"
            + run("typed")),
            "typed",
        ),
        (paragraph("<w:ruby><w:rt>" + run("とう") + "</w:rt><w:rubyBase>" + run("東") + "</w:rubyBase></w:ruby>"), "東"),
    ],
)  # fmt: skip
def test_the_accepted_view_is_read(body: str, expected: str) -> None:
    styles = (
        f'<w:styles xmlns:w="{WORD}"><w:style w:styleId="Secret"><w:rPr><w:vanish/></w:rPr></w:style>'
        '<w:style w:styleId="Child"><w:basedOn w:val="Secret"/></w:style>'
        '<w:style w:styleId="Open"><w:basedOn w:val="Secret"/><w:rPr><w:vanish w:val="0"/></w:rPr></w:style>'
        '<w:style w:styleId="A"><w:basedOn w:val="B"/></w:style>'
        '<w:style w:styleId="B"><w:basedOn w:val="A"/></w:style></w:styles>'
    )
    visible = with_body(body + paragraph(run("End.")))
    assert text_of(with_part(visible, "word/styles.xml", lambda _: styles.encode())) == f"{expected}\n\nEnd."


def test_a_note_goes_with_its_deleted_reference() -> None:
    reference = "<w:r><w:footnoteReference w:id='{}'/></w:r>"
    body = paragraph(run("Body.") + reference.format(2) + "<w:del>" + reference.format(3) + "</w:del>")
    notes = f'<w:footnotes xmlns:w="{WORD}">' + "".join(
        f"<w:footnote w:id='{number}'>{paragraph(run(text))}</w:footnote>" for number, text in [(2, "Kept."), (3, "Gone.")]
    )
    data = with_part(with_body(body), "word/footnotes.xml", lambda _: (notes + "</w:footnotes>").encode())
    assert text_of(data) == "Body.\n\nKept."


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
