"""Bad files: each is refused by line and reason, and nothing else ever comes out."""

import codecs
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.datasets import reading, rows
from aihub.finetuning.datasets.problems import MAX_REASON_CHARS
from aihub.finetuning.datasets.report import check_datasets
from tests.unit.finetuning.datasets.dataset_parts import (
    CHAT,
    INSTRUCTION,
    PROMPT,
    QUESTION,
    check,
    lines,
    mask_words,
    read,
    refusal,
    write,
)

GOOD = lines(PROMPT, PROMPT)


def conversation(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def said(role: str, content: Any = "Xin chào", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    "content", [b"", b"\n \r\n", codecs.BOM_UTF8, b"[]", b" [ \n ] ", b"prompt,completion\n", b"prompt,completion\n,\n\n"]
)
def test_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "has no rows" in refusal(tmp_path, content)


@pytest.mark.parametrize("content", [lines(PROMPT), json.dumps([CHAT]).encode(), b"question,answer\na,b\n"])
def test_file_with_one_row_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "has 1 row to learn from and needs 2" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a"', "not valid JSON: Expecting ',' delimiter (column 15)"),
        (b'{"prompt": "a", "completion": "b"} {"prompt": "a"}', "not valid JSON: Extra data"),
        (b"prompt,completion", "not valid JSON"),
        (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "'prompt' appears twice"),
        (b'{"prompt": "a", "completion": NaN}', "NaN is not JSON"),
        (b'{"prompt": "a", "completion": 1e400}', "out of range"),
        (b'{"prompt": "a", "completion": 99999999999999999999}', "out of range"),
        (rb'{"prompt": "a", "completion": "\ud800"}', "surrogate"),
        (rb'{"prompt": "a", "completion": "\u0000"}', "NUL"),
        (b'{"prompt": "a", "completion": "\x00"}', "not valid JSON"),
        (b'{"prompt": "a", "completion": "\xe0"}', "not UTF-8"),
        (b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested deeper than 64"),
        (codecs.BOM_UTF8 + b'{"prompt": "a", "completion": "b"}', "byte order mark"),
        (b"null", "not an object"),
        (b'["a", "b"]', "not an object"),
        (b"3", "not an object"),
        (b'{"prompt": "a"}', "'completion' is required"),
        (b'{"prompt": "a", "completion": "b", "id": 1}', "'id' is not a known field"),
        (b'{"prompt": "a", "completion": 308}', "'completion' must be a string"),
        (b'{"prompt": "a", "completion": null}', "'completion' must be a string"),
        (b'{"prompt": "a", "completion": " "}', "'completion' must hold text"),
        (b'{"prompt": "", "completion": "b"}', "'prompt' must hold text"),
        (b"{}", "'prompt' is required"),
    ],
)
def test_bad_json_line_is_named_with_its_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    message = refusal(tmp_path, GOOD + line + b"\n" + GOOD)
    assert "has 1 problem. Line 3: " in message
    assert reason in message


def test_broken_last_line_is_named(tmp_path: Path) -> None:
    assert "has 1 problem. Line 501: It is not valid JSON" in refusal(tmp_path, lines(*[PROMPT] * 500) + lines(PROMPT)[:-3])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (conversation(), "'messages' must hold at least 1 item"),
        ({"messages": "hi"}, "'messages' must be a list"),
        ({"messages": [1]}, "'messages.0' must be an object"),
        (conversation(said("system")), "end with a message of the assistant"),
        (conversation(said("system"), said("system")), "end with a message of the assistant"),
        (conversation(said("user"), said("assistant"), said("user")), "end with a message of the assistant"),
        (conversation(said("user"), said("assistant"), said("system")), "end with a message of the assistant"),
        (conversation(said("user"), said("assistant", "")), "'messages.1.content' must hold text"),
        (conversation(said("user"), said("assistant", "\n\u3000 ")), "'messages.1.content' must hold text"),
        (conversation(said("user"), said("assistant", None)), "'messages.1.content' must be a string"),
        (conversation(said("user", [{"type": "text", "text": "a"}]), said("assistant")), "'messages.0.content' must be a string"),
        (conversation(said("owner"), said("assistant")), "'messages.0.role' must be one of"),
        (conversation({"role": "user"}, said("assistant")), "'messages.0.content' is required"),
        (conversation(said("user", weight=0), said("assistant")), "'messages.0' has a weight"),
        (conversation(said("user"), said("assistant", weight=0)), "every message of the assistant has weight 0"),
        (conversation(said("user"), said("assistant", weight=2)), "'messages.1.weight' must be at most 1"),
        (conversation(said("user"), said("assistant", weight=True)), "'messages.1.weight' must be an integer"),
        (conversation(said("user"), said("assistant", wieght=0)), "'messages.1.wieght' is not a known field"),
        (conversation(said("user"), said("tool"), said("assistant")), "calls of tools or functions"),
        (conversation(said("user"), said("function"), said("assistant")), "calls of tools or functions"),
        (conversation(said("user"), said("assistant", None, tool_calls=[{"id": "1"}])), "calls of tools or functions"),
        (conversation(said("user"), said("assistant", function_call={"name": "f"})), "calls of tools or functions"),
        (CHAT | {"tools": []}, "calls of tools or functions"),
        (CHAT | {"prompt": "a"}, "'prompt' is not a known field"),
        (conversation(*[said("user")] * 2_000, said("assistant")), "at most 2000 items"),
    ],
)
def test_bad_conversation_is_named_with_its_reason(tmp_path: Path, row: Any, reason: str) -> None:
    message = refusal(tmp_path, lines(CHAT, row, CHAT))
    assert "has 1 problem. Line 2: " in message
    assert reason in message


@pytest.mark.parametrize("other", [CHAT, INSTRUCTION, QUESTION])
def test_file_of_mixed_formats_is_refused_at_the_first_line_of_the_other(tmp_path: Path, other: dict[str, Any]) -> None:
    for content in (lines(PROMPT, PROMPT, other), json.dumps([PROMPT, PROMPT, other], indent=0).encode()):
        message = refusal(tmp_path, content)
        assert "and line " in message
        assert "of prompt_completion. Keep one format in a file." in message


def test_keys_of_no_format_are_refused_with_what_is_expected(tmp_path: Path) -> None:
    message = refusal(tmp_path, lines({"context": "a", "response": "b"}))
    assert "prompt and completion" in message
    assert "Found here: context, response." in message
    assert "Line 1: A row has the keys" in refusal(tmp_path, lines(CHAT | PROMPT, CHAT))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text,category\na,b\nc,d\n", "1 problem. Line 1: A row has the keys or columns"),
        (b"prompt,output\na,b\nc,d\n", "1 problem. Line 1: 'completion' is required"),
        (b"prompt,completion,id\na,b,1\nc,d,2\n", "1 problem. Line 1: 'id' is not a known field"),
        (b"prompt,prompt,completion\na,b,c\n", "Line 1: It names a column twice"),
        (b"prompt,completion\na,b\nc\nd,e\n", "Line 3: It has 1 cells for 2 columns"),
        (b"prompt,completion\na,b\nc,d,e\nf,g\n", "Line 3: It has 3 cells for 2 columns"),
        (b"prompt,completion\na,b\nc,\n", "Line 3: 'completion' must hold text"),
        (b'prompt,completion\na,b\n"c,d\ne,f\n', "Line 3: It is not valid CSV"),
        (b'prompt,completion\na,b\n"c"x,d\n', "Line 3: It is not valid CSV"),
        (b"prompt,completion\na,b\nc\x00,d\n", "Line 3: It holds a NUL character"),
        ("prompt,completion\na,b\nphở,d\n".encode("cp1258", "replace") + b"\xf5\n", "Line 4: It is not UTF-8"),
        ("prompt,completion\na,b\n".encode("utf-16"), "Line 1: It is not UTF-8"),
        (b"\x1f\x8b\x08\x00", "Line 1: "),
        (b"prompt,completion\ra,b\rc,d", "Line 1: It does not name columns: new-line character seen in unquoted field. Correct"),
        (b"hello\nworld\n", "1 problem. Line 1: A row has the keys or columns"),
        (b"id,messages\n1,b\n", "Line 1: "),
    ],
)
def test_bad_csv_is_named_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[\n{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}]', "Line 3: The list is broken here"),
        (b'[\n{"prompt": "a", "completion": "b"},\n{"prompt": "c",', "Line 3: It is not valid JSON"),
        (b'[\n{"prompt": "a", "completion": "b"},\n]', "Line 3: It is not valid JSON"),
        (b'[\n{"prompt": "a", "completion": "b"}', "Line 2: The list is broken here"),
        (b'[\n{"prompt": "a", "completion": "b"}]\n\n[]', "Line 4: The list has ended before this"),
        (
            b'[\n{"prompt": "a", "completion": "b"},\n{"prompt": "a", "prompt": "a", "completion": "b"}]',
            "Line 3: The key 'prompt'",
        ),
        (b'[\n{"prompt": "a", "completion": "b"},\n[1, 2]]', "Line 3: It is not an object"),
        (b'[\n{"prompt": "a", "completion": NaN}]', "Line 2: NaN is not JSON"),
        (b'[\n{"prompt": "a",\n"completion": "\xe0"}]', "Line 3: It is not UTF-8"),
        (b"[\n" + b"[" * 100_000, "Line 2: It is not valid JSON"),
        (b"[\n" + b"9" * 10_000 + b"]", "Line 2: It is not valid JSON"),
        (b"[", "Line 1: It is not valid JSON"),
    ],
)
def test_bad_json_list_is_named_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, content)


def test_up_to_ten_problems_are_told_together(tmp_path: Path) -> None:
    bad = {"prompt": "a"}
    message = refusal(tmp_path, lines(PROMPT, bad, PROMPT, {"prompt": 1, "completion": "b"}, PROMPT))
    assert message == (
        "The training file has 2 problems. Line 2: 'completion' is required. Line 4: 'prompt' must be a string. "
        "Correct the file and send it again."
    )
    message = refusal(tmp_path, lines(PROMPT, *[bad] * 50))
    assert "10 problems or more" in message
    assert [f"Line {line}: " in message for line in (2, 11, 12)] == [True, True, False]


def test_what_the_file_holds_does_not_flood_or_garble_the_message(tmp_path: Path) -> None:
    message = refusal(tmp_path, lines({"prompt": "a", "completion": "b", "\u202e\x1b[31m" + "x" * 100_000: 1}))
    assert len(message) < MAX_REASON_CHARS + 200
    assert message.isprintable()


@pytest.mark.parametrize(
    "content",
    [
        lines({"prompt": "a", "completion": "b " * 5_000_000}),
        b"{" * 10_000_000,
        b'[{"prompt": "a", "completion": "' + b"b" * 10_000_000 + b'"}]',
        b"prompt,completion\na," + b"b" * 10_000_000,
        b'prompt,completion\na,"' + b"bbbbbbbb\n" * 1_200_000,
    ],
    ids=["jsonl", "no json", "list", "csv", "csv quote never closed"],
)
def test_row_of_ten_megabytes_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    began = time.perf_counter()
    message = refusal(tmp_path, content)
    assert "longer than" in message
    assert time.perf_counter() - began < 2


def test_row_within_the_limit_is_read(tmp_path: Path) -> None:
    assert len(read(tmp_path, lines({"prompt": "a", "completion": "ở" * 1_000_000}))[0].turns[1].text) == 1_000_000


def test_file_over_its_size_or_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = write(tmp_path, b"", "large")
    os.truncate(large, rows.MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidRequestError, match="is larger than 512 MiB"):
        check_datasets(large, None, mask_words, 64)
    monkeypatch.setattr(rows, "MAX_FILE_BYTES", 100_000)
    assert "is larger than" in refusal(tmp_path, lines(*[PROMPT] * 2_000))
    monkeypatch.setattr(rows, "MAX_LIST_BYTES", 1_000)
    assert "is a JSON list larger than" in refusal(tmp_path, json.dumps([PROMPT] * 50).encode())
    monkeypatch.setattr(reading, "MAX_ROWS", 5)
    assert check(tmp_path, lines(*[PROMPT] * 5)).rows == 5
    assert "has more than 5 rows" in refusal(tmp_path, lines(*[PROMPT] * 6))


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant", "tool"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "weight", "prompt", "completion", "instruction", "output", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
_LINES = st.one_of(
    st.sampled_from([CHAT, INSTRUCTION, PROMPT, QUESTION]).map(lambda row: json.dumps(row).encode()),
    _VALUES.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=30),
    st.sampled_from(
        [b"prompt,completion", b"a,b", b'"', b'"a\n', b"[", b"]", b",", b"{}", b"\x00", b"\xff", b"\r", codecs.BOM_UTF8]
    ),
)
_WHOLE = st.sampled_from(
    [
        lines(*[CHAT] * 3),
        lines(*[INSTRUCTION] * 3),
        b'prompt,completion\na,b\n"c, \n d",e\nf,g\n',
        json.dumps([PROMPT] * 3, indent=1).encode(),
    ]
)
_DAMAGED = st.builds(
    lambda whole, place, length, piece: whole[:place] + piece + whole[place + length :],
    _WHOLE,
    st.integers(0, 400),
    st.integers(0, 5),
    st.binary(max_size=3),
)
_FILES = (
    _DAMAGED
    | st.binary(max_size=200)
    | st.tuples(
        st.sampled_from([b"\n", b"", b",", b"\r", b"\r\n"]),
        st.sampled_from([b"", b"[", codecs.BOM_UTF8]),
        st.lists(_LINES, max_size=6),
    ).map(lambda parts: parts[1] + parts[0].join(parts[2]))
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=_FILES, max_tokens=st.integers(1, 20))
def test_any_bytes_give_a_report_or_a_refusal(tmp_path: Path, content: bytes, max_tokens: int) -> None:
    try:
        report = check(tmp_path, content, max_tokens=max_tokens)
    except InvalidRequestError as error:
        assert error.param == "training_file"
        assert error.message.isprintable()
    else:
        assert report.rows >= 2
        assert 0 < report.trained_tokens <= report.total_tokens
