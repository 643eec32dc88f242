import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.formats.json import read_json
from aihub.documents.parsing.options import ParseLimits


def code_of(data: bytes) -> str:
    with pytest.raises(DocumentError) as caught:
        extract("a.json", data, ParseLimits(max_characters=100_000))
    return caught.value.code


def test_leaves_come_with_their_paths() -> None:
    data = """{"shop": {"name": "Bình An", "open": true, "fax": null},
               "items": [{"id": 1, "price": 1.50}, {"id": 2}], "tags": ["áo", "quần"]}"""
    assert extract("a.json", data.encode(), ParseLimits()) == (
        "json",
        "shop.name: Bình An\nshop.open: true\nitems.id: 1\nitems.price: 1.50\n\nitems.id: 2\n\ntags: áo\ntags: quần",
    )


def test_numbers_keep_their_digits() -> None:
    assert read_json("[12345678901234567890123, 0.10, -1e400]", 1000) == "12345678901234567890123\n0.10\n-1e400\n"


def test_repeated_keys_lose_nothing() -> None:
    assert read_json('{"a": "một", "a": "hai"}', 1000) == "a: một\na: hai\n"


def test_escapes_that_cannot_be_stored_are_replaced() -> None:
    assert extract("a.json", rb'["a\ud800b\u0000c", "\ud83d\ude00"]', ParseLimits())[1] == "a\ufffdbc\n😀"


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[1,]",
        b"{'a': 1}",
        b"NaN",
        b"[Infinity]",
        b"[1] [2]",
        b"hello",
        b'["\t"]',
        b"[" * 100_000,
        b"[" * 101 + b"1" + b"]" * 101,
    ],
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    assert code_of(data) == "invalid_file"


@pytest.mark.parametrize("data", [b"{}", b"[[], {}]", b"null", b'""'])
def test_json_without_values_is_empty(data: bytes) -> None:
    assert code_of(data) == "empty_file"


def test_a_long_path_times_many_values_is_refused() -> None:
    assert code_of(b'{"' + b"k" * 1000 + b'": [' + b"1," * 1000 + b"1]}") == "too_large"
