"""JSON as RFC 8259 and I-JSON (RFC 7493) mean it, at the speed of the C parser.

The standard parser is lenient: it takes NaN, duplicate keys, huge numbers, lone surrogates and nesting until the stack
ends. Such cases are found by vectorised scans of the bytes before the one pass of `json.loads`, so a hostile body costs
about as much as a good one.

Pydantic's parser does not replace this: it keeps the last of two equal keys, which nobody can see afterwards, reads 1e400
as infinity even with `allow_inf_nan=False`, and takes whole numbers beyond 64 bits, escaped NUL characters, up to 200
levels and any number of members.
"""

import codecs
import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import numpy as np

from aihub.core.errors import InvalidRequestError
from aihub.core.limits import MAX_JSON_DEPTH, MAX_JSON_MEMBERS

POLITE_BYTES = 64 * 2**10
"""Larger bodies are parsed with Python callbacks, at which a thread can hand over the interpreter lock."""

_BLOCK_BYTES = 2**20
_INT64 = range(-(2**63), 2**63)
_INT64_DIGITS = 19
_SURROGATE_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DIGITS_AND_E = bytes.maketrans(b"123456789E", b"000000000e")


def parse_strict_json(body: bytes) -> Any:
    """Parse a UTF-8 JSON document.

    Raises:
        InvalidRequestError: Not JSON, or JSON with a byte order mark, duplicate keys, NaN or Infinity, numbers beyond
            64 bits, lone surrogates, NUL characters, too many members or too many levels.
    """
    if not body.strip():
        _refuse("The body is empty; send a JSON object")
    if body.startswith(codecs.BOM_UTF8):
        _refuse("The body starts with a byte order mark; send UTF-8 without one")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"The body is not valid UTF-8 (byte {error.start})", error)
    unescaped = body
    if b"\\" in body:
        # Without escaped backslashes every remaining backslash begins an escape, and every bare quote ends a string.
        unescaped = body.replace(rb"\\", b"")
        _refuse_bad_escapes(unescaped)
        unescaped = unescaped.replace(rb"\"", b"")
    outside = _outside_strings(unescaped)
    _refuse_size(outside)
    needs_checks = len(body) > POLITE_BYTES or _has_suspect_number(outside)
    try:
        return (_CHECKING_DECODER if needs_checks else _DECODER).decode(text)
    except json.JSONDecodeError as error:
        _refuse(f"The body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})", error)
    except (ValueError, RecursionError) as error:
        _refuse("The body is not valid JSON", error)


def _refuse(reason: str, cause: BaseException | None = None) -> NoReturn:
    raise InvalidRequestError(f"{reason}.", code="invalid_json") from cause


def _refuse_bad_escapes(unescaped: bytes) -> None:
    if rb"\u0000" in unescaped:
        _refuse(r"The body holds a NUL character (\u0000); leave it out")
    if _SURROGATE.search(_SURROGATE_PAIR.sub(b"", unescaped)):
        _refuse(r"The body holds half of a surrogate pair (\ud800 to \udfff); send whole characters")


def _outside_strings(unescaped: bytes) -> bytes:
    data = np.frombuffer(unescaped, dtype=np.uint8)
    pieces: list[bytes] = []
    quotes_before = np.uint8(0)
    # Block by block: a body of images would otherwise need several times its size. Counts wrap at 256, which keeps their parity.
    for start in range(0, len(data), _BLOCK_BYTES):
        block = data[start : start + _BLOCK_BYTES]
        quotes_so_far = np.cumsum(block == ord('"'), dtype=np.uint8) ^ quotes_before
        pieces.append(block[(quotes_so_far & 1) == 0].tobytes())
        quotes_before = quotes_so_far[-1] & np.uint8(1)
    return b"".join(pieces)


def _refuse_size(outside: bytes) -> None:
    containers = outside.count(b"[") + outside.count(b"{")
    if containers + outside.count(b":") > MAX_JSON_MEMBERS:
        _refuse(f"The body holds more than {MAX_JSON_MEMBERS} objects, lists and keys")
    if containers <= MAX_JSON_DEPTH:
        return
    brackets = np.frombuffer(outside.translate(None, _NOT_BRACKETS), dtype=np.uint8)
    is_opening = (brackets == ord("[")) | (brackets == ord("{"))
    if np.cumsum(np.where(is_opening, np.int32(1), np.int32(-1)), dtype=np.int32).max() > MAX_JSON_DEPTH:
        _refuse(f"The body is nested deeper than {MAX_JSON_DEPTH} levels")


def _has_suspect_number(outside: bytes) -> bool:
    """Whether any number has the digits or the exponent to leave 64 bits."""
    shape = outside.translate(_DIGITS_AND_E, b"+")
    return b"0" * _INT64_DIGITS in shape or b"e000" in shape


def _checked_int(digits: str) -> int:
    value = int(digits) if len(digits) <= _INT64_DIGITS + 1 else None
    if value is None or value not in _INT64:
        _refuse_number(digits)
    return value


def _checked_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        _refuse_number(digits)
    return value


def _refuse_number(digits: str) -> NoReturn:
    shown = digits if len(digits) <= 24 else f"{digits[:24]}..."
    _refuse(f"The number {shown} is out of range; numbers must fit 64 bits")


def _refuse_constant(name: str) -> NoReturn:
    _refuse(f"{name} is not JSON; send a finite number or null")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        _refuse(f"The key {repeated[:64]!r} appears twice in one object")
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
_CHECKING_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_int=_checked_int, parse_float=_checked_float
)
