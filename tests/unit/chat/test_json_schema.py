from typing import Any

import pytest

from aihub.chat.json_schema import check_json_schema, drop_null_keywords
from aihub.core.errors import InvalidRequestError


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


GOOD: dict[str, dict[str, Any]] = {
    "empty": {},
    "depth 24": nested(24),
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
    "a pattern": {"properties": {"a": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}}},
    "a pattern that would backtrack": {"properties": {"a": {"type": "string", "pattern": "^(a+)+b$"}}},
    "patterns of names": {"type": "object", "patternProperties": {"^x-": {"type": "string"}}},
    "a tree": {
        "$ref": "#/$defs/n",
        "$defs": {"n": {"type": "object", "properties": {"next": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}},
    },
    "itself": {"type": "object", "properties": {"a": {"$ref": "#"}}},
    "another property": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"$ref": "#/properties/a"}}},
    "an id": {"$id": "https://example.com/a.json", "type": "object", "properties": {"a": {"type": "string"}}},
    "a long text": {"type": "object", "properties": {"a": {"type": "string", "maxLength": 10_000_000}}},
    "10,000 items": {"type": "array", "items": {"type": "integer"}, "maxItems": 10_000},
    "pydantic's own": {
        "$defs": {"Item": {"properties": {"tên": {"title": "Tên", "type": "string"}}, "type": "object"}},
        "properties": {"items": {"items": {"$ref": "#/$defs/Item"}, "maxItems": 20, "type": "array"}},
        "type": "object",
    },
}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "depth 25": (nested(25), "nested at most 24"),
    "lookahead": ({"properties": {"a": {"pattern": r"^(?=.*\d).{4,8}$"}}}, "linear time"),
    "back-reference": ({"properties": {"a": {"pattern": r"^(a)\1$"}}}, "linear time"),
    "no pattern": ({"properties": {"a": {"pattern": "(("}}}, "linear time"),
    "a pattern that is a number": ({"pattern": 5}, "must be a string"),
    "129 repetitions": ({"pattern": "^a{1,129}$"}, "at most 128"),
    "counts in counts": ({"pattern": "^(.{1,10}){1,10}$"}, "fewer or smaller"),
    "100 optional characters": ({"pattern": "^(.?){100}$"}, "fewer or smaller"),
    "a long pattern": ({"pattern": "a" * 1001}, "at most 1000"),
    "a dangerous name": ({"patternProperties": {"^(.{1,10}){1,10}$": {}}}, "fewer or smaller"),
    "pattern deep in a list": ({"anyOf": [{"not": {"items": {"pattern": r"\1"}}}]}, "linear time"),
    "pattern in property names": ({"propertyNames": {"pattern": r"(?!x)"}}, "linear time"),
    "a loop of references": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "leads only to itself",
    ),
    "a pointer to nowhere": ({"$ref": "#/$defs/x"}, "points to nothing"),
    "a pointer into a list": ({"anyOf": [{"type": "string"}], "items": {"$ref": "#/anyOf/0"}}, "points to nothing"),
    "an anchor": ({"$ref": "#x", "$defs": {"a": {"$anchor": "x"}}}, "points to nothing"),
    "a remote pointer": ({"$ref": "https://example.com/schema.json"}, "same schema"),
    "a pointer that is a number": ({"$ref": 5}, "same schema"),
    "a dynamic pointer": ({"$dynamicRef": "#x"}, "not allowed"),
    "properties a list": ({"properties": []}, "object of schemas"),
    "257 properties": ({"properties": {str(i): True for i in range(257)}}, "at most 256"),
    "anyOf an object": ({"anyOf": {}}, "list of schemas"),
    "items a string": ({"items": "string"}, "object or a boolean"),
    "items a list": ({"items": [{"type": "string"}]}, "prefixItems"),
    "10,001 items": ({"maxItems": 10_001}, "from 0 to 10000"),
    "2^31 characters": ({"maxLength": 2**31}, "from 0 to 2147483647"),
    "-1 items": ({"minItems": -1}, "from 0 to 10000"),
    "true items": ({"minItems": True}, "from 0 to 10000"),
    "33 KiB": ({"enum": ["x" * 33_000]}, "at most 32768"),
    "11,000 letters of three bytes": ({"enum": ["ề" * 11_000]}, "at most 32768"),
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
        check_json_schema({"properties": {"a": {"anyOf": [{}, {"pattern": "(?=x)"}]}}}, "tools.0.function.parameters")
    assert caught.value.param == "tools.0.function.parameters.properties.a.anyOf.1.pattern"


def test_equal_length_limits_are_one() -> None:
    names = {str(i): {"type": "string", "maxLength": 255} for i in range(50)}
    assert check_json_schema({"properties": names}, "schema") == {(None, 255)}


def test_null_keywords_are_dropped_and_null_values_stay() -> None:
    schema = {
        "type": "object",
        "properties": {"a": None, "b": {"enum": [None], "default": None, "items": None}, "required": {"const": None}},
        "required": None,
        "anyOf": [{"properties": None}],
    }
    assert drop_null_keywords(schema) == {
        "type": "object",
        "properties": {"a": {}, "b": {"enum": [None], "default": None}, "required": {"const": None}},
        "anyOf": [{}],
    }
