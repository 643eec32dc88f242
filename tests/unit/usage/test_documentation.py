"""The examples of docs/usage.md, as they stand there, against the API on a real socket and a real database."""

import csv
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aihub.cli.main import app as commands
from aihub.usage.schemas import UsageFigures, UsageQuery
from tests.unit.conftest import LiveServer
from tests.unit.usage.test_cli import live, rows

__all__ = ["live", "rows"]

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "usage.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.strip().splitlines()]
AIHUB = ".venv/bin/aihub "


def test_all_examples_are_known() -> None:
    run_here = [line for line in LINES if line.startswith(AIHUB) or "group_by" in line or "export" in line]
    assert len(run_here) == 5
    # The figures of the machine have examples and tests of their own.
    assert [line for line in LINES if line not in run_here and "/api/v1/system/metrics" not in line] == []


@pytest.mark.usefixtures("live", "rows")
@pytest.mark.parametrize("line", [line for line in LINES if line.startswith(AIHUB)])
def test_command_of_the_page_answers(line: str) -> None:
    result = CliRunner().invoke(commands, shlex.split(line.removeprefix(AIHUB)))
    assert result.exit_code == 0, result.output
    assert "requests" in result.stdout


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("line", [line for line in LINES if "group_by" in line])
def test_figures_of_the_page_come(line: str, live: LiveServer) -> None:
    printed = run(line, live)
    assert json.loads(printed)["total"]["requests"] == 2


@pytest.mark.parametrize("line", [line for line in LINES if "export" in line])
def test_export_of_the_page_is_written(line: str, live: LiveServer, tmp_path: Path) -> None:
    run(line, live, folder=tmp_path)
    assert next(csv.reader((tmp_path / "usage.csv").read_text(encoding="utf-8").splitlines()))[0] == "tenant"


def run(line: str, live: LiveServer, folder: Path | None = None) -> str:
    local = line.replace("http://127.0.0.1:8000", live.url)
    done = subprocess.run(
        ["bash", "-c", local], cwd=folder, capture_output=True, text=True, timeout=30, env=os.environ, check=True
    )
    return done.stdout


def test_every_parameter_and_figure_is_documented() -> None:
    names = {field.alias or name for name, field in UsageQuery.model_fields.items()} | set(UsageFigures.model_fields)
    assert sorted(name for name in names if f"`{name}`" not in PAGE) == []
