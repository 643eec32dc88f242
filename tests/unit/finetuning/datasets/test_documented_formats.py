"""The rows that the documentation shows are read as what it calls them."""

import json
import re
from pathlib import Path

from tests.unit.finetuning.datasets.dataset_parts import check, refusal

PAGE = (Path(__file__).resolve().parents[4] / "docs" / "datasets.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_each_documented_row_is_of_a_documented_format(tmp_path: Path) -> None:
    formats = [check(tmp_path, (row + row).encode()).format for row in blocks("json")]
    assert formats == ["chat", "instruction", "prompt_completion", "question_answer"]
    assert all(f"`{name}`" in PAGE for name in formats)


def test_documented_table_is_read(tmp_path: Path) -> None:
    (table,) = blocks("csv")
    report = check(tmp_path, f"{table}a,b\n".encode())
    assert (report.container, report.format, report.rows) == ("csv", "prompt_completion", 2)


def test_documented_refusal_is_what_such_a_file_gets(tmp_path: Path) -> None:
    good = json.dumps({"prompt": "a", "completion": "b"})
    content = f'{good}\n{{"prompt": "a"}}\n{good}\n{{"prompt": 1, "completion": "b"}}\n'
    assert refusal(tmp_path, content.encode()) == blocks("text")[0].strip()
