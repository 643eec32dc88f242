"""Good files in every form, and where their rows begin."""

import csv
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import ConflictError, NotFoundError
from aihub.finetuning.datasets.reading import open_dataset, read_examples
from aihub.finetuning.examples import Turn
from tests.unit.finetuning.datasets.dataset_parts import CHAT, INSTRUCTION, PROMPT, QUESTION, check, lines, read, write

BOM = b"\xef\xbb\xbf"
TURNS = {
    "chat": (
        Turn("system", "Bạn là nhân viên của tiệm phở."),
        Turn("user", "Tiệm mở cửa lúc mấy giờ?"),
        Turn("assistant", "Dạ, sáu giờ sáng ạ.", is_trained=True),
    ),
    "instruction": (
        Turn("user", "Dịch sang tiếng Anh.\n\nCà phê sữa đá"),
        Turn("assistant", "Iced milk coffee", is_trained=True),
    ),
    "prompt_completion": (Turn("user", "Giá một tô phở?"), Turn("assistant", "Năm mươi nghìn đồng.", is_trained=True)),
    "question_answer": (Turn("user", "Có giao hàng không?"), Turn("assistant", "Có, trong nội thành.", is_trained=True)),
}
ROWS = {"chat": CHAT, "instruction": INSTRUCTION, "prompt_completion": PROMPT, "question_answer": QUESTION}


def table(row: dict[str, str], *, delimiter: str = ",", count: int = 2) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), delimiter=delimiter)
    writer.writeheader()
    writer.writerows([row] * count)
    return text.getvalue().encode()


@pytest.mark.parametrize("bom", [b"", BOM], ids=["plain", "bom"])
@pytest.mark.parametrize("kind", ROWS)
def test_json_lines_of_each_format_become_the_conversation_they_mean(tmp_path: Path, kind: str, bom: bytes) -> None:
    content = bom + lines(ROWS[kind], ROWS[kind])
    assert [(example.line, example.turns) for example in read(tmp_path, content)] == [(1, TURNS[kind]), (2, TURNS[kind])]
    report = check(tmp_path, content)
    assert (report.format, report.container, report.rows) == (kind, "jsonl", 2)
    assert (report.sha256, report.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


@pytest.mark.parametrize("bom", [b"", BOM], ids=["plain", "bom"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("kind", ROWS)
def test_json_list_of_each_format_is_read_like_lines(tmp_path: Path, kind: str, indent: int | None, bom: bytes) -> None:
    content = bom + json.dumps([ROWS[kind], ROWS[kind]], ensure_ascii=False, indent=indent).encode()
    assert [example.turns for example in read(tmp_path, content)] == [TURNS[kind], TURNS[kind]]
    report = check(tmp_path, content)
    assert (report.format, report.container, report.sha256) == (kind, "json", hashlib.sha256(content).hexdigest())


def test_elements_of_a_json_list_are_named_by_the_line_where_they_begin(tmp_path: Path) -> None:
    content = json.dumps([INSTRUCTION, INSTRUCTION, INSTRUCTION], indent=1).encode()
    assert [example.line for example in read(tmp_path, b"\n" + content)] == [3, 8, 13]


@pytest.mark.parametrize("bom", [b"", BOM], ids=["plain", "bom"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("kind", ["instruction", "prompt_completion", "question_answer"])
def test_csv_of_each_format_is_read_whatever_parts_its_cells(tmp_path: Path, kind: str, delimiter: str, bom: bytes) -> None:
    content = bom + table(ROWS[kind], delimiter=delimiter)
    assert [(example.line, example.turns) for example in read(tmp_path, content)] == [(2, TURNS[kind]), (3, TURNS[kind])]
    report = check(tmp_path, content)
    assert (report.format, report.container, report.sha256) == (kind, "csv", hashlib.sha256(content).hexdigest())


def test_csv_cells_may_hold_commas_quotes_and_line_ends_and_lines_are_still_counted(tmp_path: Path) -> None:
    content = 'Prompt, Completion\r\n"Giá?\nVà ""size"", lớn?",năm\r\n\r\nb,c\r\n'.encode()
    assert [(example.line, example.turns[0].text, example.turns[1].text) for example in read(tmp_path, content)] == [
        (2, 'Giá?\nVà "size", lớn?', "năm"),
        (5, "b", "c"),
    ]


def test_csv_cells_longer_than_the_default_limit_of_the_csv_module_are_read(tmp_path: Path) -> None:
    content = b"prompt,completion\na," + b"long " * 40_000 + b"\nb,c\n"
    assert len(read(tmp_path, content)[0].turns[1].text) == 200_000


def test_empty_lines_and_a_missing_last_line_end_do_not_matter(tmp_path: Path) -> None:
    content = b"\n\r\n" + lines(PROMPT).replace(b"\n", b"\r\n") + b"  \n" + lines(PROMPT).rstrip()
    assert [example.line for example in read(tmp_path, content)] == [3, 5]


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": None}, {"input": " \n"}])
def test_instruction_without_input_is_the_question_alone(tmp_path: Path, given: dict[str, Any]) -> None:
    row = {"instruction": "Chào", "output": "Xin chào"} | given
    assert read(tmp_path, lines(row))[0].turns[0] == Turn("user", "Chào")


def test_weight_zero_keeps_an_answer_in_the_conversation_and_out_of_the_loss(tmp_path: Path) -> None:
    messages = [
        {"role": "developer", "content": "Ngắn gọn."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "3", "weight": 0},
        {"role": "user", "content": "Sai rồi."},
        {"role": "assistant", "content": "2", "weight": 1},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4", "weight": None},
    ]
    turns = read(tmp_path, lines({"messages": messages}))[0].turns
    assert [turn.is_trained for turn in turns] == [False, False, False, False, True, False, True]
    assert turns[0].role == "system"


@pytest.mark.parametrize(
    "content",
    [
        BOM + b"\n  \r\n " + lines(PROMPT) + b"\t" + lines(PROMPT) + b"\n\n",
        b'\n prompt , completion \r\n a,b\r\n\r\n" c\n",d',
        b" \n[\n " + lines(PROMPT) + b"," + lines(PROMPT) + b"] \n",
    ],
    ids=["jsonl", "csv", "json"],
)
def test_hash_is_that_of_every_byte_of_the_file(tmp_path: Path, content: bytes) -> None:
    report = check(tmp_path, content)
    assert (report.rows, report.sha256, report.size_bytes) == (2, hashlib.sha256(content).hexdigest(), len(content))


def test_text_is_kept_as_it_is(tmp_path: Path) -> None:
    answer = " e\u0301 ế 👩‍🍳 \u202eabc\n\tđ "
    assert read(tmp_path, lines({"prompt": "q", "completion": answer}))[0].turns[1].text == answer


def test_file_that_changed_since_it_was_checked_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, lines(PROMPT, PROMPT))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(list(read_examples(path, sha256))) == 2
    write(tmp_path, lines(PROMPT, PROMPT, PROMPT))
    with pytest.raises(ConflictError, match="changed since it was checked") as caught:
        list(read_examples(path, sha256))
    assert (caught.value.code, caught.value.param) == ("training_file_changed", "training_file")


def test_file_that_is_gone_since_it_was_checked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list(read_examples(tmp_path / "gone", "0" * 64))


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(NotFoundError), open_dataset(path, "training_file"):
            pass
