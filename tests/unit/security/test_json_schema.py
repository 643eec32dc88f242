from typing import Any

import pytest

from aihub.errors import InvalidRequestError
from aihub.security.json_schema import check_json_schema


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


GOOD: dict[str, dict[str, Any]] = {
    "empty": {},
    "depth 8": nested(8),
    "a property named pattern": {
        "properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}, "id": {"type": "string"}}
    },
    "an enum that looks like a schema": {"enum": [{"pattern": "x", "$ref": "#"}], "default": {"maxItems": 10**9}},
    "booleans": {"properties": {"a": True}, "additionalProperties": False, "items": True},
    "one definition used twice": {
        "properties": {"a": {"$ref": "#/$defs/x"}, "b": {"$ref": "#/$defs/x"}},
        "$defs": {"x": {"type": "string"}},
    },
    "a chain of definitions": {
        "$ref": "#/definitions/a",
        "definitions": {"a": {"items": {"$ref": "#/definitions/b"}}, "b": {"type": "string"}},
    },
    "pydantic's own": {
        "$defs": {"Item": {"properties": {"tên": {"title": "Tên", "type": "string"}}, "type": "object"}},
        "properties": {"items": {"items": {"$ref": "#/$defs/Item"}, "maxItems": 20, "type": "array"}},
        "type": "object",
    },
}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "depth 9": (nested(9), "nested at most 8"),
    "pattern": ({"properties": {"a": {"pattern": "(a+)+b"}}}, "Regular expressions"),
    "patternProperties": ({"patternProperties": {"(a+)+b": {}}}, "Regular expressions"),
    "pattern deep in a list": ({"anyOf": [{"not": {"items": {"pattern": "x"}}}]}, "Regular expressions"),
    "pattern in property names": ({"propertyNames": {"pattern": "x"}}, "Regular expressions"),
    "itself": ({"properties": {"a": {"$ref": "#"}}}, "Recursive"),
    "a definition of itself": ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, "Recursive"),
    "two definitions of each other": (
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"items": {"$ref": "#/$defs/a"}}}},
        "Recursive",
    ),
    "a definition back to the root": ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#"}}}}, "Recursive"),
    "a pointer into itself": ({"properties": {"a": {"items": {"$ref": "#/properties/a"}}}}, "points to nothing"),
    "a pointer to nowhere": ({"$ref": "#/$defs/x"}, "points to nothing"),
    "a remote pointer": ({"$ref": "https://example.com/schema.json"}, "same schema"),
    "a pointer that is a number": ({"$ref": 5}, "same schema"),
    "a dynamic pointer": ({"$dynamicRef": "#x"}, "not allowed"),
    "properties a list": ({"properties": []}, "object of schemas"),
    "anyOf an object": ({"anyOf": {}}, "list of schemas"),
    "items a string": ({"items": "string"}, "object or a boolean"),
    "10^9 items": ({"maxItems": 10**9}, "from 0 to 1000"),
    "-1 items": ({"minItems": -1}, "from 0 to 1000"),
    "true items": ({"minItems": True}, "from 0 to 1000"),
    "17 KiB": ({"enum": ["x" * 17_000]}, "at most 16384"),
    "6,000 letters of three bytes": ({"enum": ["ề" * 6_000]}, "at most 16384"),
}


@pytest.mark.parametrize("name", GOOD)
def test_harmless_schema_is_accepted(name: str) -> None:
    check_json_schema(GOOD[name], "schema")


@pytest.mark.parametrize("name", BAD)
def test_dangerous_schema_is_refused_with_its_reason(name: str) -> None:
    schema, reason = BAD[name]
    with pytest.raises(InvalidRequestError) as caught:
        check_json_schema(schema, "schema")
    assert reason in caught.value.message
    assert caught.value.param is not None
    assert caught.value.param.startswith("schema")


def test_refusal_names_the_place() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_json_schema({"properties": {"a": {"anyOf": [{}, {"pattern": "x"}]}}}, "tools.0.function.parameters")
    assert caught.value.param == "tools.0.function.parameters.properties.a.anyOf.1.pattern"
