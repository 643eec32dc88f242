"""JSON Schemas from clients, checked before a grammar compiler sees them.

Engines compile schemas to grammars: regexes, recursion and huge counts there have crashed engines or filled memory
(CVE-2025-29770, CVE-2026-55574, GHSA-vrq3-r879-7m65), so they are refused instead of trusted.
"""

import json
from typing import Any

from aihub.errors import InvalidRequestError
from aihub.security.limits import MAX_LENGTH_LIMITED_STRINGS, MAX_SCHEMA_BYTES, MAX_SCHEMA_COUNT, MAX_SCHEMA_DEPTH

_REGEX_KEYWORDS = frozenset({"pattern", "patternProperties", "regex"})
_DYNAMIC_KEYWORDS = frozenset({"$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$anchor", "$id", "id"})
_NAMED_SCHEMAS = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
_SCHEMA_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SINGLE_SCHEMAS = frozenset(
    {"items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames"}
    | {"unevaluatedProperties", "unevaluatedItems"}
)
_COUNTS = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains"}
)
_LENGTHS = frozenset({"minLength", "maxLength"})


def check_json_schema(schema: dict[str, Any], param: str) -> int:
    """Refuse a schema that is too large or too deep, or that holds regexes, recursion or remote references.

    Returns:
        How many strings have a length limit, for `check_length_limits`.

    Raises:
        InvalidRequestError: Says what is not allowed and where; `param` is the path of the schema in the request.
    """
    size = len(json.dumps(schema, ensure_ascii=False).encode())
    if size > MAX_SCHEMA_BYTES:
        raise InvalidRequestError(
            f"The JSON schema has {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed.", param=param, code="schema_too_large"
        )
    walk = _Walk()
    walk.visit(schema, param, owner="#", depth=1)
    walk.refuse_recursion(param)
    return walk.length_limited


def check_length_limits(count: int, param: str) -> None:
    """Refuse more strings with `minLength` or `maxLength` than an engine can compile in a few seconds.

    Raises:
        InvalidRequestError: More than `MAX_LENGTH_LIMITED_STRINGS`.
    """
    if count > MAX_LENGTH_LIMITED_STRINGS:
        raise _refusal(
            f"{count} strings have 'minLength' or 'maxLength'; at most {MAX_LENGTH_LIMITED_STRINGS} may, as each is slow to "
            "compile. Say the length in the description instead",
            param,
        )


class _Walk:
    """One pass over the schema's subschemas; `references` is the graph root and definitions -> definitions."""

    def __init__(self) -> None:
        self.references: dict[str, set[str]] = {}
        self.definitions: set[str] = {"#"}
        self.length_limited = 0

    def visit(self, schema: Any, path: str, *, owner: str, depth: int) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise _refusal("A JSON schema must be an object or a boolean here", path)
        if depth > MAX_SCHEMA_DEPTH:
            raise _refusal(f"Schemas may be nested at most {MAX_SCHEMA_DEPTH} deep; flatten this one", path)
        self.length_limited += not _LENGTHS.isdisjoint(schema)
        for keyword, value in schema.items():
            self._keyword(keyword, value, f"{path}.{keyword}", owner=owner, depth=depth)

    def _keyword(self, keyword: str, value: Any, path: str, *, owner: str, depth: int) -> None:
        if keyword in _REGEX_KEYWORDS:
            raise _refusal(f"Regular expressions ({keyword!r}) are not allowed; use `enum` or check the answer yourself", path)
        if keyword in _DYNAMIC_KEYWORDS and isinstance(value, str):
            raise _refusal(f"{keyword!r} is not allowed; use `$ref` to `#/$defs/...`", path)
        if keyword == "$ref":
            self._reference(value, path, owner)
        elif keyword in _NAMED_SCHEMAS:
            self._named(keyword, value, path, owner=owner, depth=depth)
        elif keyword in _SCHEMA_LISTS or (keyword == "items" and isinstance(value, list)):
            if not isinstance(value, list):
                raise _refusal(f"{keyword!r} must be a list of schemas", path)
            for index, item in enumerate(value):
                self.visit(item, f"{path}.{index}", owner=owner, depth=depth + 1)
        elif keyword in _SINGLE_SCHEMAS:
            self.visit(value, path, owner=owner, depth=depth + 1)
        elif keyword in _COUNTS and not _is_count(value):
            raise _refusal(f"{keyword!r} must be an integer from 0 to {MAX_SCHEMA_COUNT}", path)

    def _named(self, keyword: str, value: Any, path: str, *, owner: str, depth: int) -> None:
        if not isinstance(value, dict):
            raise _refusal(f"{keyword!r} must be an object of schemas", path)
        for name, item in value.items():
            is_definition = keyword in {"$defs", "definitions"} and depth == 1
            inner = f"#/{keyword}/{name}" if is_definition else owner
            self.definitions.add(inner)
            self.visit(item, f"{path}.{name}", owner=inner, depth=depth + 1)

    def _reference(self, target: Any, path: str, owner: str) -> None:
        if not isinstance(target, str) or not target.startswith("#"):
            raise _refusal("`$ref` must point into the same schema (`#/$defs/...`)", path)
        self.references.setdefault(owner, set()).add(target)

    def refuse_recursion(self, param: str) -> None:
        """Refuse references to nowhere and cycles; whatever the root holds is reachable from it."""
        finished: set[str] = set()

        def follow(node: str, trail: tuple[str, ...]) -> None:
            if node in trail or node == "#" and trail:
                raise _refusal(f"Recursive `$ref` ({node!r}) is not allowed; unroll the levels you need", param)
            if node not in self.definitions:
                raise _refusal(f"`$ref` {node!r} points to nothing; refer to an entry of `$defs`", param)
            if node in finished:
                return
            for target in sorted(self.references.get(node, ())):
                follow(target, (*trail, node))
            finished.add(node)

        for node in sorted(self.definitions):
            follow(node, ())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SCHEMA_COUNT


def _refusal(reason: str, path: str) -> InvalidRequestError:
    return InvalidRequestError(f"{reason}.", param=path, code="invalid_json_schema")
