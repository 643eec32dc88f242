"""JSON Schemas from clients, checked before a grammar compiler sees them.

Engines compile schemas to grammars: expensive patterns, huge counts and endless references there have crashed engines or filled
memory (CVE-2025-29770, CVE-2026-55574, GHSA-vrq3-r879-7m65), so they are refused instead of trusted. A schema that is only
shown to the model is not compiled, and needs none of this.
"""

import json
from collections.abc import Mapping
from typing import Any

from aihub.chat.schema_patterns import check_pattern
from aihub.core.errors import InvalidRequestError
from aihub.core.limits import (
    CHEAP_MIN_LENGTH,
    CHEAP_PATTERN_COST,
    MAX_LENGTH_LIMITS,
    MAX_SCHEMA_BYTES,
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_ITEMS,
    MAX_SCHEMA_LENGTH,
    MAX_SCHEMA_PROPERTIES,
)

_DYNAMIC_KEYWORDS = frozenset({"$dynamicRef", "$recursiveRef", "$dynamicAnchor", "$anchor"})
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_SCHEMA_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SINGLE_SCHEMAS = frozenset(
    {"items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames"}
    | {"unevaluatedProperties", "unevaluatedItems"}
)
_LENGTHS = frozenset({"minLength", "maxLength"})
_COUNTS = frozenset({"minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"})
_NULL_IS_A_VALUE = frozenset({"const", "default"})

LengthLimit = tuple[str | int | None, ...]
"""What makes one string slow to compile; equal ones are compiled once."""


def drop_null_keywords(schema: Any) -> Any:
    """Return the schema without keywords that are null (`"properties": null`), as some generators write absent ones."""
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for keyword, value in schema.items():
        if value is None and keyword not in _NULL_IS_A_VALUE:
            continue
        if keyword in _NAMED_SCHEMAS and isinstance(value, dict):
            kept[keyword] = {name: {} if item is None else drop_null_keywords(item) for name, item in value.items()}
        elif keyword in _SCHEMA_LISTS and isinstance(value, list):
            kept[keyword] = [drop_null_keywords(item) for item in value]
        elif keyword in _SINGLE_SCHEMAS:
            kept[keyword] = drop_null_keywords(value)
        else:
            kept[keyword] = value
    return kept


def schema_bytes(schema: Any) -> int:
    """Size of a JSON value as UTF-8."""
    return len(json.dumps(schema, ensure_ascii=False).encode(errors="surrogatepass"))


def check_json_schema(schema: dict[str, Any], param: str) -> frozenset[LengthLimit]:
    """Refuse a schema whose grammar could take much time or memory, or that no grammar can hold.

    Returns:
        The different length limits in it, for `check_length_limits`.

    Raises:
        InvalidRequestError: Says what is not allowed and where; `param` is the path of the schema in the request.
    """
    size = schema_bytes(schema)
    if size > MAX_SCHEMA_BYTES:
        raise InvalidRequestError(
            f"The JSON schema has {size} bytes; at most {MAX_SCHEMA_BYTES} are allowed.", param=param, code="schema_too_large"
        )
    walk = _Walk(schema)
    walk.visit(schema, param, depth=1)
    return frozenset(walk.length_limits)


def check_length_limits(limits: frozenset[LengthLimit], param: str) -> None:
    """Refuse more different length limits and long patterns than an engine can compile in a few seconds.

    Raises:
        InvalidRequestError: More than `MAX_LENGTH_LIMITS`.
    """
    if len(limits) > MAX_LENGTH_LIMITS:
        raise _refusal(
            f"There are {len(limits)} different length limits ('minLength', 'maxLength', long patterns); at most "
            f"{MAX_LENGTH_LIMITS} may be, as each is slow to compile. Use the same limits for several strings, or say the length "
            "in the description instead",
            param,
        )


class _Walk:
    """One pass over the schema's subschemas."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self.length_limits: set[LengthLimit] = set()

    def visit(self, schema: Any, path: str, *, depth: int) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise _refusal("A JSON schema must be an object or a boolean here", path)
        if depth > MAX_SCHEMA_DEPTH:
            raise _refusal(f"Schemas may be nested at most {MAX_SCHEMA_DEPTH} deep; flatten this one", path)
        for keyword, value in schema.items():
            self._keyword(keyword, value, f"{path}.{keyword}", depth=depth)
        if (schema.get("minLength") or 0) > CHEAP_MIN_LENGTH or "maxLength" in schema:
            self.length_limits.add((schema.get("minLength"), schema.get("maxLength")))

    def _keyword(self, keyword: str, value: Any, path: str, *, depth: int) -> None:
        if keyword == "pattern":
            self._pattern(value, path)
        elif keyword == "$ref":
            _follow(self._root, value, path)
        elif keyword in _DYNAMIC_KEYWORDS and isinstance(value, str):
            raise _refusal(f"{keyword!r} is not allowed; use `$ref` to `#/$defs/...`", path)
        elif keyword in _NAMED_SCHEMAS:
            self._named(keyword, value, path, depth=depth)
        elif keyword in _SCHEMA_LISTS:
            if not isinstance(value, list):
                raise _refusal(f"{keyword!r} must be a list of schemas", path)
            for index, item in enumerate(value):
                self.visit(item, f"{path}.{index}", depth=depth + 1)
        elif keyword == "items" and isinstance(value, list):
            raise _refusal("'items' must be one schema; use 'prefixItems' for a list of them", path)
        elif keyword in _SINGLE_SCHEMAS:
            self.visit(value, path, depth=depth + 1)
        elif keyword in _LENGTHS and not _is_count(value, MAX_SCHEMA_LENGTH):
            raise _refusal(f"{keyword!r} must be an integer from 0 to {MAX_SCHEMA_LENGTH}", path)
        elif keyword in _COUNTS and not _is_count(value, MAX_SCHEMA_ITEMS):
            raise _refusal(f"{keyword!r} must be an integer from 0 to {MAX_SCHEMA_ITEMS}", path)

    def _named(self, keyword: str, value: Any, path: str, *, depth: int) -> None:
        if not isinstance(value, dict):
            raise _refusal(f"{keyword!r} must be an object of schemas", path)
        if len(value) > MAX_SCHEMA_PROPERTIES:
            raise _refusal(f"{keyword!r} has {len(value)} entries; at most {MAX_SCHEMA_PROPERTIES} are allowed", path)
        for name, item in value.items():
            if keyword == "patternProperties":
                self._pattern(name, path)
            self.visit(item, f"{path}.{name}", depth=depth + 1)

    def _pattern(self, value: Any, path: str) -> None:
        if not isinstance(value, str):
            raise _refusal("A pattern must be a string", path)
        try:
            cost = check_pattern(value)
        except ValueError as error:
            raise _refusal(f"The pattern {value[:100]!r} is not allowed: {error}", path) from error
        if cost > CHEAP_PATTERN_COST:
            self.length_limits.add(("pattern", value))


def _follow(root: dict[str, Any], reference: Any, path: str) -> None:
    """Refuse references out of the schema, to nowhere, and those that only lead back to themselves."""
    seen: set[str] = set()
    while True:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _refusal("`$ref` must point into the same schema (`#/$defs/...`)", path)
        if reference in seen:
            raise _refusal(f"`$ref` {reference!r} leads only to itself; give it a schema to end at", path)
        seen.add(reference)
        target: Any = root
        for step in reference.split("/")[1:]:
            target = target.get(step) if isinstance(target, Mapping) else None
        if not isinstance(target, dict | bool) or (reference != "#" and not reference.startswith("#/")):
            raise _refusal(f"`$ref` {reference!r} points to nothing; refer to an entry of `$defs` by its plain name", path)
        if not isinstance(target, dict) or "$ref" not in target:
            return
        reference = target["$ref"]


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _refusal(reason: str, path: str) -> InvalidRequestError:
    return InvalidRequestError(f"{reason}.", param=path, code="invalid_json_schema")
