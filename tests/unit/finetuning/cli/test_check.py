"""`aihub train check`, with words as tokens."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aihub.cli.main import app
from aihub.finetuning.examples import Turn

ROW = {"prompt": "Tiệm phở mở cửa lúc mấy giờ?", "completion": "Sáu giờ sáng."}


class WordTokenizer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mask(self, turns: tuple[Turn, ...]) -> list[bool]:
        return [turn.is_trained for turn in turns for _ in turn.text.split()]


@pytest.fixture(autouse=True)
def words_are_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aihub.finetuning.chat_tokens.ChatTokenizer", WordTokenizer)


def check(folder: Path, *rows: object, options: tuple[str, ...] = ()) -> Result:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return CliRunner().invoke(app, ["train", "check", str(path), "--model", str(folder), *options])


def test_report_says_what_is_learnt_and_what_repeats(tmp_path: Path) -> None:
    result = check(tmp_path, ROW, ROW)
    assert result.exit_code == 0
    assert "2 rows" in result.stdout
    assert "6 of 20 tokens are learnt" in result.stdout
    assert "1 rows repeat an earlier one (lines 2)" in result.stdout


def test_json_holds_every_field(tmp_path: Path) -> None:
    report = json.loads(check(tmp_path, ROW, ROW, options=("--json",)).stdout)["training"]
    assert (report["rows"], report["trained_tokens"], report["duplicate_lines"]) == (2, 6, [2])


def test_wrong_lines_are_named_and_the_exit_code_is_one(tmp_path: Path) -> None:
    result = check(tmp_path, ROW, {"prompt": "a"})
    assert result.exit_code == 1
    assert "Line 2" in result.stderr
    assert "Traceback" not in result.stderr
