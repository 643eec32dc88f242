"""What the checks let through, the installed grammar compiler takes."""

import json
from typing import Any

import pytest

from aihub.chat.json_schema import check_json_schema
from aihub.chat.schema_patterns import check_pattern
from tests.unit.chat.test_json_schema import GOOD
from tests.unit.chat.test_tools import MCP

xgrammar = pytest.importorskip("xgrammar")

# A compiler's work grows with the vocabulary; bytes and a few thousand words show what takes part at all.
VOCABULARY = [chr(n) for n in range(32, 127)] + [f"{a}{b}{c}" for a in "aeioub1- " for b in "nrst_.,{" for c in "abcdefghijkl0 "]

PATTERNS = (
    r"^\d{4}-\d{2}-\d{2}$",
    r"^[a-z0-9]+(?:-[a-z0-9]+)*$",
    r"^([a-zA-Z0-9_\-.]+)@([a-zA-Z0-9_\-.]+)\.([a-zA-Z]{2,5})$",
    r"^(https?://)?([\da-z.-]+)\.([a-z.]{2,6})[/\w .-]*/?$",
    r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    r"^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)$",
    r"^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$",
    r"^(a+)+b$",
    r"^.{0,128}$",
    r"^[^/\\]+$",
    r"^áo( dài)?$",
)


def compile_schema(schema: dict[str, Any]) -> Any:
    info = xgrammar.TokenizerInfo(VOCABULARY)
    return xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(schema))


@pytest.mark.parametrize("name", [name for name in GOOD if GOOD[name].get("type") == "object"])
def test_accepted_schema_compiles(name: str) -> None:
    check_json_schema(GOOD[name], "schema")
    assert compile_schema(GOOD[name]).memory_size_bytes < 2**26


@pytest.mark.parametrize("name", [name for name in MCP if name != "no arguments"])
def test_schema_of_an_mcp_server_compiles(name: str) -> None:
    assert compile_schema(MCP[name]).memory_size_bytes < 2**26


@pytest.mark.parametrize("pattern", PATTERNS)
def test_accepted_pattern_compiles(pattern: str) -> None:
    check_pattern(pattern)
    assert compile_schema({"type": "string", "pattern": pattern}).memory_size_bytes < 2**26


def test_one_repetition_more_than_allowed_fails_in_the_compiler() -> None:
    check_pattern("^[a-z]{1,128}$")
    with pytest.raises(ValueError, match="at most 128"):
        check_pattern("^[a-z]{1,129}$")
    with pytest.raises(RuntimeError):
        compile_schema({"type": "string", "pattern": "^[a-z]{1,129}$"})
