import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.options import ParseLimits

LIMITS = ParseLimits()
THANKS = "Cảm ơn quý khách"
BROKEN = [b"\xed\xa0\xbd", b"\xff", b"\xfe", b"\xe1\xba", b"\x96", b"\xc3", b"\xf0\x9f\x98", b"\xc0"]


def text_of(data: bytes, filename: str = "a.txt") -> str:
    return extract(filename, data, LIMITS)[1]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(
    ("filename", "start", "end", "expected"),
    [
        ("a.txt", "", "", "{} {}"),
        ("a.md", "# ", "", "# {} {}"),
        ("a.csv", "lời,mã\n", ",1\n", "lời: {} {}\nmã: 1"),
        ("a.json", '{"lời": "', '"}', "lời: {} {}"),
        ("a.html", "<html><body><p>", "</p></body></html>", "{} {}"),
        ("a.txt", "plain English text, many words of it, and then ", "", "plain English text, many words of it, and then {} {}"),
    ],
)
def test_one_broken_sequence_is_replaced_and_the_rest_stays(
    filename: str, start: str, end: str, expected: str, broken: bytes
) -> None:
    data = f"{start}{THANKS} ".encode() + broken + end.encode()
    text = text_of(data, filename)
    assert set(text.partition("\ufffd")[2]) <= set(expected.partition("}")[2].replace("{}", "") + "\ufffd")
    assert text.replace("\ufffd", "").split() == expected.format(THANKS, "").split()
    assert "\ufffd" in text


@pytest.mark.parametrize("copies", [1, 50])
def test_broken_bytes_may_be_every_other_letter(copies: int) -> None:
    data = ("ế".encode() + b"\xff ") * copies
    assert text_of(data) == "ế\ufffd " * copies


def test_surrogates_of_java_are_joined_and_its_nul_is_dropped() -> None:
    assert text_of(b"Hello \xed\xa0\xbd\xed\xb8\x80\xc0\x80!") == "Hello \U0001f600!"


@pytest.mark.parametrize(("data", "expected"), [(b"caf\xc3", "caf\ufffd"), (b"Hello wor \xff ld", "Hello wor \ufffd ld")])
def test_ascii_with_a_byte_of_no_encoding_is_repaired(data: bytes, expected: str) -> None:
    assert text_of(data) == expected


def test_a_replacement_character_in_the_file_is_no_damage() -> None:
    text = "ảo \ufffd\ufffd\ufffd\ufffd"
    assert text_of(text.encode() + b"\xff") == text + "\ufffd"


def test_half_of_the_lines_in_another_encoding_are_marked() -> None:
    data = "Cảm ơn quý khách đã mua hàng\n".encode() + "Satış\n".encode("cp1254")
    assert text_of(data) == "Cảm ơn quý khách đã mua hàng\nSat\ufffd\ufffd\n"


@pytest.mark.parametrize("text", ["Satış", "Satış fiyatı ve şartlar", "ab ş cd"])
def test_undeclared_letters_that_could_be_several_are_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(DocumentError, match="`encoding`") as caught:
        text_of(text.encode("cp1254"))
    assert caught.value.code == "invalid_file"
