"""Regular expressions of JSON Schemas, checked before a grammar compiler sees them.

Rust's `regex` decides what is a pattern: it has no lookaround and no back-references, so whatever it takes can be matched in
linear time. A grammar compiler pays for something else: it writes counted repetitions out and makes their alternatives
deterministic, so that `(.?){100}` alone runs for minutes.
"""

import re

from pydantic_core import SchemaError, SchemaValidator, core_schema

MAX_PATTERN_CHARS = 1_000
MAX_REPETITIONS = 128
"""Of one part, nested counts multiplied; xgrammar 0.2.8 fails inside the engine at 129."""

MAX_PATTERN_COST = 128
"""Classes with their repetitions written out, open-ended ones as four of them; up to 3 s of CPU in xgrammar 0.2.8."""

OPEN_REPETITION_COST = 4
NESTED_REPETITION_COST = 2

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:[:=!]|<[=!]|P?<\w+>))?|\{(\d+)(?:(,)(\d*))?\}|.", re.DOTALL)
_CLASS_ESCAPES = frozenset("dDwWsSpP")


def check_pattern(pattern: str) -> int:
    """Check one pattern.

    Returns:
        Its cost, see `MAX_PATTERN_COST`.

    Raises:
        ValueError: What is wrong with it.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"it has {len(pattern)} characters; at most {MAX_PATTERN_CHARS} are allowed")
    try:
        SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as error:
        raise ValueError("it must be one that matches in linear time, without lookaround and back-references") from error
    cost, repetitions = _measure(pattern)
    if repetitions > MAX_REPETITIONS:
        raise ValueError(f"one part is repeated {repetitions} times; at most {MAX_REPETITIONS} are allowed, use `maxLength`")
    if cost > MAX_PATTERN_COST:
        raise ValueError("its repetitions inside each other or after each other are too many; use fewer or smaller counts")
    return cost


def _measure(pattern: str) -> tuple[int, int]:
    """Return the cost of a valid pattern, and how often its most repeated part is repeated."""
    groups: list[list[tuple[int, int]]] = [[]]
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        if text.startswith("("):
            groups.append([])
        elif text == ")" and len(groups) > 1:
            groups[-2].append(_joined(groups.pop()))
        elif token.group(1) or text in "*+?":
            if groups[-1]:
                groups[-1].append(_repeated(*groups[-1].pop(), token))
        elif text not in "|^$":
            is_class = text == "." or text.startswith("[") or (text.startswith("\\") and text[1] in _CLASS_ESCAPES)
            groups[-1].append((int(is_class), 1))
    return _joined([part for group in groups for part in group])


def _joined(parts: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(cost for cost, _ in parts), max((repetitions for _, repetitions in parts), default=1)


def _repeated(cost: int, repetitions: int, quantifier: re.Match[str]) -> tuple[int, int]:
    least, comma, most = quantifier.groups()
    if least is None:
        optional = OPEN_REPETITION_COST - 1 if cost else 0
        return cost + optional if quantifier[0] == "?" else cost * OPEN_REPETITION_COST, repetitions
    count = max(int(least), int(most or 0), 1)
    if comma and not most:
        cost *= OPEN_REPETITION_COST
    if count > 1 and repetitions > 1:
        cost *= NESTED_REPETITION_COST
    return cost * count, repetitions * count
