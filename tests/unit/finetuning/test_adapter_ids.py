import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.adapter_ids import (
    NAME_CHARS,
    AdapterId,
    find_adapter_id,
    is_name,
    name_of_suffix,
    parse_adapter_id,
    parse_version_id,
)

names = st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True)
bases = st.text(string.ascii_letters + string.digits + ":/._-@", min_size=1, max_size=60)


@given(base=bases, name=names, version=st.none() | st.integers(1, 999_999_999))
def test_what_is_formatted_is_parsed_back(base: str, name: str, version: int | None) -> None:
    adapter_id = AdapterId(base, name, version)
    assert parse_adapter_id(str(adapter_id)) == adapter_id


@given(st.text(max_size=80))
def test_any_text_is_an_id_that_spells_itself_or_none(text: str) -> None:
    found = find_adapter_id(text)
    assert found is None or str(found) == text


@given(st.text(max_size=64))
def test_any_suffix_gives_a_name_or_is_refused(suffix: str) -> None:
    try:
        name = name_of_suffix(suffix)
    except InvalidRequestError as error:
        assert error.param == "suffix"
    else:
        assert is_name(name)
        assert name_of_suffix(name) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smollm2:shop@v3", AdapterId("smollm2", "shop", 3)),
        ("llama2:7b:shop", AdapterId("llama2:7b", "shop")),
        ("hf:org/name:shop@v12", AdapterId("hf:org/name", "shop", 12)),
        ("llama2:7b", AdapterId("llama2", "7b")),
        ("smollm2:shop@v0", None),
        ("smollm2:shop@v01", None),
        ("smollm2:Shop", None),
        ("smollm2", None),
        (":shop", None),
        ("smollm2:shop\n", None),
    ],
)
def test_ids_are_read_from_the_right(text: str, expected: AdapterId | None) -> None:
    assert find_adapter_id(text) == expected


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("Cửa hàng Đà Lạt", "cua-hang-da-lat"),
        ("đường-ĐƯỜNG", "duong-duong"),
        ("My Shop_2!", "my-shop-2"),
        ("--a--", "a"),
        ("x" * 64, "x" * NAME_CHARS),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_suffix_becomes_a_name(suffix: str, name: str) -> None:
    assert name_of_suffix(suffix) == name


@pytest.mark.parametrize("suffix", ["", "---", "商店", "!"])
def test_suffix_without_letters_is_refused(suffix: str) -> None:
    with pytest.raises(InvalidRequestError, match="letter or digit"):
        name_of_suffix(suffix)


def test_alias_is_no_version() -> None:
    with pytest.raises(InvalidRequestError, match="smollm2:shop@v1"):
        parse_version_id("smollm2:shop")
    with pytest.raises(InvalidRequestError, match="no name of an adapter"):
        parse_version_id("smollm2")
