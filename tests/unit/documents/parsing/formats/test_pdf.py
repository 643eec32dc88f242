import zlib

import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.options import ParseLimits
from tests.unit.documents.document_files import encrypted_pdf, pdf, pdf_from_objects, pdf_with_content, stream, unicode_pdf

LIMITS = ParseLimits(max_pages=50, max_characters=20_000)


def code_of(data: bytes) -> str:
    with pytest.raises(DocumentError) as caught:
        extract("file.pdf", data, LIMITS)
    return caught.value.code


def test_the_pages_of_a_pdf_are_parted_by_blank_lines() -> None:
    assert extract("a.pdf", pdf("First page.\nSecond line.", "Next page."), LIMITS) == (
        "pdf",
        "First page.\nSecond line.\n\nNext page.",
    )


def test_vietnamese_comes_out_composed() -> None:
    assert extract("a.pdf", unicode_pdf("Tiếng Việt có dấu: ừ, ễ, đ"), LIMITS) == ("pdf", "Tiếng Việt có dấu: ừ, ễ, đ")


def test_a_pdf_is_known_whatever_its_name() -> None:
    assert extract("notes.txt", pdf("Hello there."), LIMITS) == ("pdf", "Hello there.")


def test_junk_before_the_header_is_tolerated() -> None:
    assert extract("a.pdf", b"\r\nmailed by x\r\n" + pdf("Hello there."), LIMITS)[1] == "Hello there."


def test_a_password_is_reported() -> None:
    assert code_of(encrypted_pdf("secret", user_password="s3cret")) == "encrypted_file"


def test_a_pdf_that_only_forbids_printing_is_read() -> None:
    assert extract("a.pdf", encrypted_pdf("Free to read.", user_password=""), LIMITS)[1] == "Free to read."


def test_too_many_pages_are_refused() -> None:
    assert code_of(pdf(*["page"] * 51)) == "too_large"


def test_too_much_text_is_refused() -> None:
    assert code_of(pdf(*["word " * 100] * 45)) == "too_large"


def test_a_pdf_without_text_is_empty() -> None:
    assert code_of(pdf("")) == "empty_file"


def test_a_page_tree_that_contains_itself_ends() -> None:
    looping = pdf_from_objects(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [2 0 R 3 0 R] /Count 2 >>",
        b"<< /Type /Pages /Kids [2 0 R] /Parent 2 0 R /Count 1 >>",
    )
    assert code_of(looping) in {"invalid_file", "empty_file"}


def test_a_form_that_draws_itself_ends() -> None:
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 4 0 R >> >>"
    looping = pdf_from_objects(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 5 0 R /Resources << /XObject << /X 4 0 R >> >> >>",
        stream(b"/X Do", form),
        stream(b"/X Do"),
    )
    assert code_of(looping) in {"invalid_file", "empty_file"}


def test_cross_references_that_point_at_themselves_end() -> None:
    data = pdf_from_objects(b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 0 >>")
    start = data.index(b"xref\n")
    looping = data.replace(b"/Root 1 0 R", b"/Root 1 0 R /Prev %d" % start)
    assert code_of(looping) in {"invalid_file", "empty_file"}


def test_a_stream_that_unfolds_enormously_is_refused() -> None:
    bomb = zlib.compress(bytes(80 * 2**20), 9)
    body = pdf_with_content(b"").replace(stream(b""), stream(bomb, b"/Filter /FlateDecode"))
    assert code_of(body) in {"invalid_file", "empty_file", "too_large"}


@pytest.mark.parametrize("keep", [9, 200, 0.5, 0.9])
def test_a_cut_pdf_is_damaged_or_read_never_a_crash(keep: float) -> None:
    whole = pdf("Hello there. " * 20, "Second page.")
    cut = whole[: int(keep if keep > 1 else len(whole) * keep)]
    try:
        assert extract("a.pdf", cut, LIMITS)[0] == "pdf"
    except DocumentError as error:
        assert error.code in {"invalid_file", "empty_file"}


def test_garbage_after_the_header_is_damaged() -> None:
    assert code_of(b"%PDF-1.7\n" + bytes(range(256)) * 20) == "invalid_file"
