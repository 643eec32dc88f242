from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aihub.cli.main import app

Run = Callable[..., Result]


@pytest.fixture
def run(empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line on a database without any key."""
    monkeypatch.setenv("DATABASE_URL", empty_dsn)
    monkeypatch.setenv("AIHUB_HOME", str(tmp_path / "home"))

    def invoke(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=answer)

    return invoke
