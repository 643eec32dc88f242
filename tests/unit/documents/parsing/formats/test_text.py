import hashlib
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.formats.text import decode
from aihub.documents.parsing.options import ParseLimits

VIETNAMESE = "Hợp đồng lao động được ký kết giữa hai bên.\nĐiều khoản thứ nhất: tiền lương."
FRENCH = "Les élèves étaient là où l'été s'achève ; façade, naïve, déjà vu. Le café est fermé à cause de la fête."
RUSSIAN = "Привет, как дела? Это текст на русском языке, и он достаточно длинный."
JAPANESE = "これは日本語の文章です。東京は大きい都市で、人口が多いです。"
NOISE = hashlib.shake_256(b"any seed").digest(5000)


def code_of(data: bytes, filename: str = "a.txt") -> str:
    with pytest.raises(DocumentError) as caught:
        extract(filename, data, ParseLimits())
    return caught.value.code


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (VIETNAMESE, "utf-8"), (VIETNAMESE, "utf-8-sig"), (VIETNAMESE, "utf-16"), (VIETNAMESE, "utf-16-le"),
        (VIETNAMESE, "utf-16-be"), (VIETNAMESE, "utf-32"), (FRENCH, "latin-1"), (FRENCH, "cp1252"),
        ("Le café est fermé.", "latin-1"), (RUSSIAN, "cp1251"), (RUSSIAN, "koi8-r"), (JAPANESE, "shift_jis"),
        (JAPANESE * 3, "euc_jp"), ("这是中文句子。北京是中国的首都。", "gb18030"),
        ("Die Straße führt über die Brücke.", "latin-1"), ("Příliš žluťoučký kůň úpěl ďábelské ódy.", "cp1250"),
        ("Dziękuję bardzo, proszę mówić wolniej. Łódź jest piękna.", "cp1250"), ("Mañana será otro día. ¿Dónde está?", "latin-1"),
        ("Türkiye'nin başkenti Ankara'dır. İstanbul çok güzel, değil mi?", "cp1254"),
    ],
)  # fmt: skip
def test_text_is_decoded_from_the_encodings_people_use(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)).removeprefix("\ufeff") == text


def test_vietnamese_in_its_old_windows_encoding_is_composed() -> None:
    """Windows-1258 writes most tone marks as separate characters."""
    text = "Hợp đồng lao động được ký kết giữa người lao động và người sử dụng lao động."
    old = unicodedata.normalize("NFD", text).replace("đ", "\xf0")
    for base, mark, letter in [
        ("o", "\u031b", "\xf5"),
        ("u", "\u031b", "\xfd"),
        ("a", "\u0302", "\xe2"),
        ("e", "\u0302", "\xea"),
        ("o", "\u0302", "\xf4"),
    ]:
        old = old.replace(base + "\u0323" + mark, letter + "\xf2").replace(base + mark, letter)
    data = b"".join(
        {"\u0300": b"\xcc", "\u0301": b"\xec", "\u0309": b"\xd2", "\u0303": b"\xde", "\u0323": b"\xf2"}.get(c)
        or c.encode("latin-1")
        for c in old
    )
    assert extract("a.txt", data * 3, ParseLimits())[1] == text * 3


def test_a_few_broken_bytes_do_not_spoil_utf8() -> None:
    data = (VIETNAMESE * 5).encode()
    damaged = data[:101] + b"\xff" + data[101:-1]
    text = decode(damaged)
    assert text.count("\ufffd") <= 3 and text.count("Hợp đồng") >= 4


def test_nul_is_removed_and_text_is_composed_once() -> None:
    assert (
        extract("a.txt", unicodedata.normalize("NFD", "Vi\0ệt\r\nNam\r\x0cHết\u2028").encode(), ParseLimits())[1]
        == "Việt\nNam\n\nHết\n"
    )


def test_plain_text_and_markdown_keep_their_layout() -> None:
    source = "  # Tiêu đề\n\n\n\n![ảnh](http://evil.example/x.png)  \n"
    assert extract("a.md", source.encode(), ParseLimits()) == ("md", source)
    assert extract("README", source.encode(), ParseLimits()) == ("txt", source)


@pytest.mark.parametrize(
    "data", [b"", b"   \n\t\r\n ", "\ufeff".encode(), "\u200b\u200b\u00ad \u2060".encode(), "\u3000\u2003".encode()]
)
def test_files_without_text_are_empty(data: bytes) -> None:
    assert code_of(data) == "empty_file"


@pytest.mark.parametrize(
    "data",
    [
        NOISE,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\6\0\0\0" + NOISE[:200],
        b"\x7fELF\2\1\1" + bytes(100),
        b"\x1f\x8b\x08\0" + NOISE[:300],
        bytes(1000),
        bytes(range(256)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("filename", ["a.txt", "a.bin", "a.csv", "a.html", "a.json", "noname"])
def test_binary_files_are_not_supported(data: bytes, filename: str) -> None:
    assert code_of(data, filename) == "unsupported_file"


def test_text_named_like_a_binary_format_is_refused() -> None:
    assert code_of(b"just some words", "a.pdf") == "invalid_file"
    assert code_of(b"just some words", "a.docx") == "invalid_file"


def test_text_over_the_limit_is_refused() -> None:
    with pytest.raises(DocumentError) as caught:
        extract("a.txt", "ă".encode() * 1001, ParseLimits(max_characters=1000))
    assert caught.value.code == "too_large"


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["a.txt", "a.md", "a.html", "a.csv", "a.json", "a.pdf", "a.docx", "a"]))
def test_any_bytes_give_storable_text_or_a_typed_error(data: bytes, filename: str) -> None:
    try:
        _, text = extract(filename, data, ParseLimits())
    except DocumentError as error:
        assert error.status == 400 and error.message
    else:
        assert "\0" not in text and text.strip()
        assert text.encode().decode() == text == unicodedata.normalize("NFC", text)


@settings(deadline=None)
@given(st.text(max_size=200).filter(lambda text: any(character.isalnum() for character in text) and "\0" not in text))
def test_utf8_text_comes_back_but_for_its_normal_form(text: str) -> None:
    """NUL says UTF-16 where the rest can be that."""

    def words(value: str) -> list[str]:
        value = value.removeprefix("\ufeff")
        return unicodedata.normalize("NFC", " ".join(value.split())).split()

    try:
        _, parsed = extract("a.txt", text.encode(), ParseLimits())
    except DocumentError as error:
        assert error.code == "unsupported_file"  # mostly control characters
    else:
        assert parsed.startswith("<") or "".join(words(parsed)) == "".join(words(text))
