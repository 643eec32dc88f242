import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aihub.core.embedded.stores import StoreUrls
from aihub.recsys.cli import app
from tests.unit.recsys.shop_parts import Shop


@pytest.fixture
def run(embedded_stores: StoreUrls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABASE_URL", embedded_stores.database_url)
    monkeypatch.setenv("AIHUB_HOME", str(tmp_path / "home"))

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, result.stdout, result.stderr

    yield invoke
    Shop(embedded_stores.database_url, "default").remove()


def test_shop_is_loaded_trained_asked_and_compared(run: Any, tmp_path: Path) -> None:
    code, out, _ = run("demo-shop", "--from", str(tmp_path / "none.csv"))
    assert code == 0
    assert "400 customers" in out
    code, out, err = run("train", "1", "trending", "trees=5", "--json")
    assert code == 0, err
    assert json.loads(out)["served"] is True
    code, out, _ = run("predict", "1", "trending", "-n", "2")
    assert [item["rank"] for item in json.loads(out)["trending"]] == [1, 2]
    shown = run("status", "1")[1]
    assert "trending        000001  served" in shown
    assert "succeeded   Version 000001 is served" in shown
    code, _, err = run("rollback", "1", "trending")
    assert code == 1
    assert "nothing to go back to" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train", "1", "films"), "one of recommendation, trending, next-item"),
        (("train", "1", "trending", "trees=0"), "trees"),
        (("train", "1", "trending", "dim=8"), "dim"),
        (("predict", "1", "recommendation"), "--user"),
        (("predict", "1", "next-item", "--history", "áo,2"), "--history"),
    ],
)
def test_wrong_question_is_refused_with_exit_code_2(run: Any, arguments: tuple[str, ...], told: str) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert told in err


def test_store_without_a_model_says_how_to_train(run: Any) -> None:
    code, _, err = run("predict", "77", "next-item", "--history", "1")
    assert code == 1
    assert "aihub recsys train 77 next-item" in err
    assert "no model" in run("status", "77")[1]
