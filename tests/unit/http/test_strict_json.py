import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from aihub.core.errors import InvalidRequestError
from aihub.http import strict_json
from aihub.http.strict_json import POLITE_BYTES, parse_strict_json

GOOD = [
    b'{"a": 9223372036854775807, "b": -9223372036854775808}',
    b'{"a": 0.12345678901234567890123, "b": 1e308, "c": 1e-400, "d": 100000000000000000000.0}',
    b'{"a": "NaN 1e400 99999999999999999999999 {{{{ [[[["}',
    '{"a": "Tiếng Việt có dấu, \U0001f600"}'.encode(),
    rb'{"a": "\ud83d\ude00 \\ud800 \\u0000 \" \\\" \\\\"}',
    b'{"a": {"a": {"a": 1}}}',
    b"[" * 64 + b"]" * 64,
    b' \n\t{"a":1} \n',
]

BAD = {
    "empty": (b"", "empty"),
    "only spaces": (b" \n", "empty"),
    "truncated": (b'{"model": "x", "messages": [', "not valid JSON"),
    "two documents": (b"{}{}", "not valid JSON"),
    "single quotes": (b"{'a': 1}", "not valid JSON"),
    "trailing comma": (b'{"a": 1,}', "not valid JSON"),
    "duplicate keys": (b'{"model": "a", "x": [{"k": 1, "j": 2, "k": 3}]}', "'k' appears twice"),
    "NaN": (b'{"temperature": NaN}', "NaN is not JSON"),
    "Infinity": (b'{"temperature": Infinity}', "Infinity is not JSON"),
    "minus Infinity": (b'{"temperature": -Infinity}', "-Infinity is not JSON"),
    "1e400": (b'{"temperature": 1e400}', "out of range"),
    "-1E+0400": (b'{"temperature": -1E+0400}', "out of range"),
    "a float of 400 digits": (b'{"a": ' + b"9" * 400 + b".0}", "out of range"),
    "2^63": (b'{"seed": 9223372036854775808}', "out of range"),
    "-2^63-1": (b'{"seed": -9223372036854775809}', "out of range"),
    "10,000 digits": (b'{"seed": ' + b"1" * 10_000 + b"}", "out of range"),
    "lone high surrogate": (rb'{"a": "x\ud83dx"}', "surrogate"),
    "lone low surrogate": (rb'{"a": "\ude00"}', "surrogate"),
    "surrogates in the wrong order": (rb'{"a": "\ude00\ud83d"}', "surrogate"),
    "surrogate after an escaped backslash": (rb'{"a": "\\\ud83d"}', "surrogate"),
    "surrogate encoded as UTF-8": (b'{"a": "\xed\xa0\x80"}', "not valid UTF-8"),
    "escaped NUL": (rb'{"a": "\u0000"}', "NUL"),
    "raw NUL": (b'{"a": "\x00"}', "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "not valid UTF-8"),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "not valid JSON"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "not valid UTF-8"),
    "depth 65": (b"[" * 65 + b"]" * 65, "nested deeper"),
    "depth 10,000 of lists": (b"[" * 10_000 + b"]" * 10_000, "nested deeper"),
    "depth 10,000 of objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested deeper"),
    "depth without an end": (b"[" * 100_000, "nested deeper"),
    "too many members": (b"[" + b"{}," * 300_000 + b"{}]", "more than 200000"),
}


@pytest.mark.parametrize("body", GOOD)
def test_parse_good_json_gives_what_the_standard_parser_gives(body: bytes) -> None:
    assert parse_strict_json(body) == json.loads(body)


@pytest.mark.parametrize("name", BAD)
def test_parse_bad_json_is_refused_with_its_reason(name: str) -> None:
    body, reason = BAD[name]
    with pytest.raises(InvalidRequestError) as caught:
        parse_strict_json(body)
    assert reason in caught.value.message
    assert caught.value.status == 400


TAKEN_BY_PYDANTIC = {
    "duplicate keys",
    "1e400",
    "-1E+0400",
    "a float of 400 digits",
    "2^63",
    "-2^63-1",
    "escaped NUL",
    "depth 65",
    "too many members",
}


@pytest.mark.parametrize("name", BAD)
def test_parser_of_pydantic_takes_what_is_refused_here(name: str) -> None:
    """Once this fails because pydantic refuses more, the module may have become needless."""
    try:
        from_json(BAD[name][0], allow_inf_nan=False)
    except ValueError:
        assert name not in TAKEN_BY_PYDANTIC
    else:
        assert name in TAKEN_BY_PYDANTIC


def test_parser_of_pydantic_takes_almost_200_levels() -> None:
    assert from_json(b"[" * 199 + b"]" * 199)
    with pytest.raises(ValueError, match="recursion"):
        from_json(b"[" * 250 + b"]" * 250)


@pytest.mark.parametrize("number", [b"9223372036854775808", b"1e400"])
def test_parse_large_body_checks_numbers_too(number: bytes) -> None:
    body = b'{"padding": "' + b"x" * POLITE_BYTES + b'", "a": ' + number + b"}"
    with pytest.raises(InvalidRequestError, match="out of range"):
        parse_strict_json(body)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=30,
)


@given(value=json_values, ascii_only=st.booleans())
def test_parse_returns_any_json_value_unchanged(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert parse_strict_json(body) == value


HOSTILE_4_MB = {
    "brackets": b"[" * 2**22,
    "empty objects": b"[" + b"{}," * (2**22 // 3) + b"1]",
    "keys": b"{" + b",".join(b'"%d":1' % i for i in range(350_000)) + b"}",
    "quotes": b'"' * 2**22,
    "backslashes": b"\\" * 2**22,
    "digits": b"[" + b"1" * 2**22 + b"]",
    "exponents": b"[" + b"1e400," * (2**22 // 6) + b"1]",
    "minus signs": b"-" * 2**22,
    "lone surrogates": b'["' + rb"\ud83d" * (2**22 // 6) + b'"]',
}


@pytest.mark.parametrize("name", HOSTILE_4_MB)
def test_parse_hostile_four_megabytes_is_refused_in_bounded_cpu_time(name: str) -> None:
    started_s = time.thread_time()
    with pytest.raises(InvalidRequestError):
        parse_strict_json(HOSTILE_4_MB[name])
    assert time.thread_time() - started_s < 0.5


@pytest.mark.parametrize("shift", range(3))
def test_strings_that_cross_blocks_are_still_strings(monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    monkeypatch.setattr(strict_json, "_BLOCK_BYTES", 8)
    value = {"a" * shift: ["[[[", "}{", 'x"y', "\\", ""], "b": {"c": "[" * 200}}
    assert parse_strict_json(json.dumps(value).encode()) == value
    with pytest.raises(InvalidRequestError, match="nested deeper"):
        parse_strict_json(b'{"' + b"a" * shift + b'": ' + b"[" * 100 + b"]" * 100 + b"}")
