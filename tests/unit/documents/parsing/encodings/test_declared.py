import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.encodings.declared import codec_of
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


TERMS = "Satış şartları: ürün değişimi yapılır."


def declared_text_of(data: bytes, filename: str = "a.txt", encoding: str | None = None) -> str:
    return extract(filename, data, ParseLimits(), encoding=encoding)[1]


@pytest.mark.parametrize(
    "start",
    [
        '<?xml version="1.0" encoding="windows-1254"?><html><body>',
        "<?xml version='1.0' encoding='ISO-8859-9'?>\n<html><body>",
        '<!doctype html><meta charset="windows-1254"><body>',
        "<html><head><META HTTP-EQUIV=Content-Type CONTENT='text/html; charset = x-cp1254'></head><body>",
        '<!-- <meta charset="koi8-r"> --><html><meta charset=latin5><body>',
    ],
)
def test_what_a_page_declares_is_believed_even_for_one_word(start: str) -> None:
    for words in (TERMS, "Satış"):
        assert declared_text_of((start + f"<p>{words}</p>").encode("cp1254"), "a.html") == words


def test_xml_text_and_an_editor_line_declare_too() -> None:
    xml = '<?xml version="1.0" encoding="gbk"?><r>张三</r>'
    assert declared_text_of(xml.encode("gbk"), "a.xml") == xml
    text = "-*- coding: koi8-r -*-\nда"
    assert declared_text_of(text.encode("koi8-r")) == text


@pytest.mark.parametrize("encoding", ["cp1254", "cp1255", "gb18030", "cp932", "koi8-r", "cp850", "utf-16-le", "utf-16-be"])
def test_the_encoding_that_the_upload_names_wins(encoding: str) -> None:
    words = {"cp1255": "שלום", "gb18030": "联通", "cp932": "東京", "koi8-r": "да", "cp850": "né"}.get(encoding, "Satış")
    assert declared_text_of(words.encode(encoding), encoding=encoding) == words
    page = f'<html><meta charset="iso-8859-7"><body>{words}</body></html>'
    assert declared_text_of(page.encode(encoding), "a.html", encoding) == words


def test_a_byte_order_mark_wins_over_all() -> None:
    for codec in ("utf-8-sig", "utf-16", "utf-32"):
        assert declared_text_of(f'<html><meta charset="gbk"><p>{TERMS}'.encode(codec), "a.html", "cp1251") == TERMS


def test_a_page_converted_to_utf8_whose_meta_was_left_is_utf8() -> None:
    assert declared_text_of(f'<html><meta charset="iso-8859-1"><p>{TERMS}'.encode(), "a.html") == TERMS
    assert declared_text_of('<html><meta charset="windows-1252"><p>é'.encode(), "a.html") == "é"


def test_two_characters_of_a_declared_gbk_that_look_like_utf8_are_gbk() -> None:
    data = b'<html><meta charset="gbk"><p>' + b"\xc2\xa4\xd2\xbb"
    assert declared_text_of(data, "a.html") == b"\xc2\xa4\xd2\xbb".decode("gbk")


def test_a_declaration_that_the_bytes_belie_is_refused() -> None:
    for data, encoding in [
        (("Условия продажи " * 9).encode("cp1251"), "utf-8"),
        (("Условия продажи " * 9).encode("cp1251"), "euc_jp"),
    ]:
        with pytest.raises(DocumentError, match="declared") as caught:
            declared_text_of(data, encoding=encoding)
        assert caught.value.code == "invalid_file"


def test_meta_in_plain_text_is_text() -> None:
    text = 'write <meta charset="gbk"> into the page — né'
    assert declared_text_of(text.encode()) == text


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["Cảm ơn bạn", "Привет, как дела", "这是中文。\n北京是首都\n", "สวัสดี ครับ", "مرحبا كيف"])
def test_utf16_without_a_mark_is_read(text: str, codec: str) -> None:
    assert declared_text_of(text.encode(codec)) == text


def test_broken_utf16_is_replaced() -> None:
    assert declared_text_of(b"\xff\xfeh\0i\0!") == "hi\ufffd"
    assert declared_text_of(b"\xff\xfeh\0\x00\xd8i\0") == "h\ufffdi"


def test_japanese_and_korean_escapes_are_read() -> None:
    for codec, text in [("iso2022_jp", "これは mail です"), ("iso2022_kr", "이것은 mail")]:
        assert declared_text_of(text.encode(codec)) == text


def test_padding_of_nul_bytes_is_cut() -> None:
    assert declared_text_of("Xin chào".encode() + bytes(500)) == "Xin chào"


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("Latin1", "cp1252"), ("iso-8859-9", "cp1254"), ("GB2312", "gb18030"), ("ks_c_5601-1987", "cp949"), ("x-sjis", "cp932"),
        ("tis-620", "cp874"), ("utf8", "utf-8"), ("UTF-16", "utf-16-le"), ("cp850", "cp850"), ("koi8-t", "koi8-t"),
    ],
)  # fmt: skip
def test_labels_are_read_as_browsers_read_them(label: str, codec: str) -> None:
    known = codec_of(label)
    assert known is not None and "ab".encode(known) == "ab".encode(codec)


@pytest.mark.parametrize("label", ["", "klingon", "unicode_escape", "rot13", "idna", "hex", "iso-2022-cn", "mbcs", "undefined"])
def test_what_is_no_encoding_of_text_is_unknown(label: str) -> None:
    assert codec_of(label) is None
