import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.accounts.api_keys import ApiKey, parse_key, read_key
from aihub.core.errors import AuthenticationError

SHAPE = re.compile(r"aihub_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")


def test_keys_have_the_documented_shape_and_are_all_different() -> None:
    keys = [ApiKey.generate() for _ in range(200)]
    for key in keys:
        found = SHAPE.fullmatch(key.text)
        assert found is not None
        assert (found[1], f"key_{found[1]}") == (key.prefix, key.key_id)
    assert len({key.text for key in keys}) == len({key.text[15:] for key in keys}) == 200


def test_digest_is_sha256_of_the_whole_key() -> None:
    key = ApiKey.generate()
    assert key.digest() == hashlib.sha256(key.text.encode()).digest()


def test_secret_is_not_in_what_is_printed_of_a_key() -> None:
    key = ApiKey.generate()
    for shown in (repr(key), str(key), f"{key}", repr([key])):
        assert key.text[15:] not in shown
        assert key.prefix in shown


@given(st.text())
def test_text_is_a_key_only_in_the_documented_shape(text: str) -> None:
    assert (parse_key(text) is None) == (SHAPE.fullmatch(text) is None or not text.isascii())


@given(before=st.text(max_size=3), after=st.text(max_size=3))
def test_nothing_may_stand_around_a_key(before: str, after: str) -> None:
    key = ApiKey.generate()
    text = before + key.text + after
    assert (parse_key(text) == key) == (not before and not after)


@given(st.lists(st.text(), max_size=3))
def test_any_header_is_a_key_or_one_refusal_that_repeats_nothing(values: list[str]) -> None:
    marked = [f"{value}-geheim" for value in values]
    with pytest.raises(AuthenticationError) as caught:
        read_key(marked)
    assert "geheim" not in caught.value.message
    assert caught.value.status == 401


@given(scheme=st.sampled_from(["Bearer", "bearer", "BEARER", "bEaReR"]), space=st.text(" ", min_size=1, max_size=5))
def test_key_is_read_from_the_bearer_scheme_in_any_case(scheme: str, space: str) -> None:
    key = ApiKey.generate()
    assert read_key([f"{scheme}{space}{key.text}"]) == key


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,12}", fullmatch=True).filter(lambda scheme: scheme.lower() != "bearer"))
def test_key_in_another_scheme_is_refused(scheme: str) -> None:
    with pytest.raises(AuthenticationError, match="scheme"):
        read_key([f"{scheme} {ApiKey.generate().text}"])
