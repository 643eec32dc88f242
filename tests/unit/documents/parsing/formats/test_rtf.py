import time

import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.options import ParseLimits

HEAD = r"{\rtf1\ansi\ansicpg1254\deff0{\fonttbl{\f0\fcharset162 Arial;}{\f1\fcharset204 Arial;}}{\info{\title Secret title}}\f0 "


def text_of(body: str, filename: str = "a.rtf") -> str:
    file_format, text = extract(filename, (HEAD + body + "}").encode("latin-1"), ParseLimits())
    assert file_format == "rtf"
    return text


def test_text_comes_without_markup_in_its_own_encodings() -> None:
    assert text_of(r"Sat\'fd\'fe \b bold\b0\par Vi\u7879?t \f1\'e4\'e0\f0\line end") == "Satış bold\nViệt да\nend"


def test_bytes_beyond_ascii_mean_the_same_as_escaped_ones() -> None:
    assert text_of("Sat\xfd\xfe") == "Satış"


@pytest.mark.parametrize("filename", ["a.txt", "a.doc", "a"])
def test_rtf_is_known_whatever_its_name(filename: str) -> None:
    assert text_of("words", filename) == "words"


def test_rows_are_lines_and_cells_are_parted_by_tabs() -> None:
    row = r"\trowd\cellx100\cellx200\intbl {}\cell {}\cell\row "
    assert (
        text_of(row.format("Áo".encode("cp1254").decode("latin-1"), "500 | 600") + row.format("c", "d")) == "Áo\t500 | 600\nc\td"
    )


def test_hidden_and_deleted_text_is_left_out() -> None:
    assert text_of(r"a {\v hidden \b too}b {\deleted gone\par gone}c \v x\v0 d\v y\plain  e") == "a b c d e"


def test_a_link_is_its_text() -> None:
    assert text_of(r'{\field{\*\fldinst{HYPERLINK "http://x.example/"}}{\fldrslt the link}} end') == "the link end"


def test_pictures_are_left_out_also_in_raw_bytes() -> None:
    assert text_of(r"a {\pict\wmetafile8 0123abcd}b {\pict\bin4 }{}\ c}d") == "a b d"


def test_a_name_that_promises_rtf_is_held_to_it() -> None:
    with pytest.raises(DocumentError):
        extract("a.rtf", b"just words", ParseLimits())


def test_rtf_without_text_is_empty_and_a_torn_one_gives_what_it_has() -> None:
    with pytest.raises(DocumentError) as caught:
        text_of(r"\par ")
    assert caught.value.code == "empty_file"
    assert extract("a.rtf", rb"{\rtf1 {\b some text", ParseLimits())[1] == "some text"


@pytest.mark.parametrize(
    "piece", ["{", "}", r"\v", r"{\pict", r"\'", r"\u8", "\\", r"\bin9 ", r"{\field{\*\fldinst{HYPERLINK \""]
)
def test_hostile_rtf_takes_little_time(piece: str) -> None:
    start = time.process_time()
    try:
        extract("a.rtf", (HEAD + piece * 20_000).encode(), ParseLimits())
    except DocumentError:
        pass
    assert time.process_time() - start < 10
