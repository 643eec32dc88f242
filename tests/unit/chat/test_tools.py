"""Tools as MCP servers describe them: shown to the model as they are, held to limits only where a grammar is compiled."""

from typing import Any

import pytest

from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.schemas import validate

FILTER = {
    "type": "object",
    "properties": {
        "and": {"type": "array", "items": {"$ref": "#/$defs/filter"}},
        "or": {"type": "array", "items": {"$ref": "#/$defs/filter"}},
        "property": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    },
}
MCP: dict[str, dict[str, Any]] = {
    "github": {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        "required": ["owner", "repo", "title"],
        "properties": {
            "owner": {"type": "string", "pattern": "^[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,37}[a-zA-Z0-9])?$"},
            "repo": {"type": "string", "maxLength": 100},
            "title": {"type": "string", "minLength": 1, "maxLength": 256},
            "body": {"type": "string", "maxLength": 65536},
            "labels": {"type": "array", "items": {"type": "string"}},
        },
    },
    "notion": {"type": "object", "properties": {"filter": {"$ref": "#/$defs/filter"}}, "$defs": {"filter": FILTER}},
    "filesystem": {
        "$id": "https://example.com/edit.json",
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "source": {"$ref": "#/properties/path"},
            "edits": {"type": "array", "items": {"type": "object", "properties": {"oldText": {"type": "string"}}}},
        },
        "required": ["path"],
    },
    "kubernetes": {
        "type": "object",
        "properties": {"labels": {"type": "object", "patternProperties": {"^[a-z0-9./-]+$": {"type": "string"}}}},
    },
    "no arguments": {"type": "object", "properties": None, "required": None},
    "tree": {"type": "object", "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}}},
    "dates": {
        "type": "object",
        "properties": {
            "from": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$"}
        },
    },
}
ONLY_SHOWN: dict[str, dict[str, Any]] = {
    "lookahead": {"type": "object", "properties": {"password": {"type": "string", "pattern": r"^(?=.*\d)(?=.*[a-z]).{8,}$"}}},
    "unicode class": {"type": "object", "properties": {"word": {"type": "string", "pattern": r"^[\p{L}]{1,500}$"}}},
    "anchor": {"type": "object", "properties": {"a": {"$ref": "#a"}}, "$defs": {"a": {"$anchor": "a", "type": "string"}}},
    "remote": {"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}}},
    "tuple": {"type": "object", "properties": {"a": {"type": "array", "items": [{"type": "string"}, {"type": "number"}]}}},
    "nothing like a schema": {"properties": ["a"], "type": 5, "items": "x", "anyOf": {}},
    "300 properties": {"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": i} for i in range(300)}},
}


def request(schema: dict[str, Any], choice: Any, *, strict: bool | None = None) -> ChatCompletionRequest:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": strict}}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [tool], "tool_choice": choice}
    return validate(ChatCompletionRequest, body)


@pytest.mark.parametrize("choice", ["auto", "none", None])
@pytest.mark.parametrize("name", MCP | ONLY_SHOWN)
def test_schema_that_is_only_shown_is_never_refused(name: str, choice: str | None) -> None:
    request((MCP | ONLY_SHOWN)[name], choice)


@pytest.mark.parametrize("name", MCP)
def test_schema_of_an_mcp_server_can_be_forced(name: str) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "f"}}):
        request(MCP[name], choice)
    request(MCP[name], "auto", strict=True)


def test_engine_gets_no_null_keywords() -> None:
    body = request(MCP["no arguments"], "auto").to_engine_body()
    assert body["tools"][0]["function"]["parameters"] == {"type": "object"}


def test_null_values_of_a_schema_reach_the_engine() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", None], "default": None}, "b": {"const": None}}}
    assert request(schema, "required").to_engine_body()["tools"][0]["function"]["parameters"] == schema
