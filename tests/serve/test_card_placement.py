"""The path to a card, on a cluster that pretends one: what Ray is asked for is placed, and what cannot be is said."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import OWN_VARIABLES, ROOT

# Serve tells of a replica that waits for resources after this time, and looks for such replicas as often.
PATIENCE = {"RAY_SERVE_SLOW_STARTUP_WARNING_S": "10", "RAY_SERVE_SLOW_STARTUP_WARNING_PERIOD_S": "1"}


def run_pretended(folder: Path) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES | {"RAY_ADDRESS"}}
    result = subprocess.run(
        [sys.executable, "-c", "from tests.serve.pretended_card import main; main()", str(folder)],
        cwd=ROOT,
        env=environment | PATIENCE | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    told = [line.removeprefix("TOLD ") for line in result.stdout.splitlines() if line.startswith("TOLD ")]
    assert told, result.stdout[-3000:] + result.stderr[-3000:]
    answer: dict[str, Any] = json.loads(told[0])
    return answer


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_pretended(tmp_path_factory.mktemp("card"))


def test_two_models_and_embeddings_are_placed_on_one_card(told: dict[str, Any]) -> None:
    assert told["first"]["error"] is None
    assert told["second"]["error"] is None
    assert [told[part]["cards"] for part in ("first", "second", "embeddings")] == ["0", "0", "0"]


def test_models_leave_the_card_in_ray_to_trainings(told: dict[str, Any]) -> None:
    assert told["gpus_left"] > 0.8


def test_worker_stays_in_the_process_that_sees_the_card_and_takes_what_the_ledger_gave_it(told: dict[str, Any]) -> None:
    arguments = told["second"]["arguments"]
    assert arguments["kv_cache_memory_bytes"] == 2**30
    assert arguments["gpu_memory_utilization"] == pytest.approx(4 / 16)
    assert arguments["enable_sleep_mode"] is True


def test_model_that_sees_takes_images_of_bounded_size_and_its_neighbour_none(told: dict[str, Any]) -> None:
    arguments = told["second"]["arguments"]
    assert arguments["limit_mm_per_prompt"] == {"image": 16, "video": 0, "audio": 0}
    assert arguments["mm_processor_kwargs"] == {"size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 1024 * 28 * 28}}
    assert (told["first"]["max_images"], told["second"]["max_images"]) == (0, 16)
    assert "limit_mm_per_prompt" not in told["first"]["arguments"]


def test_start_that_cannot_succeed_is_tried_once_and_says_its_innermost_cause(told: dict[str, Any]) -> None:
    broken = told["broken"]
    assert (broken["error"], broken["tries"]) == ("CannotStartError", 1)
    assert broken["message"] == "ValueError: the dtype float8 is not supported"


def test_start_that_may_succeed_later_is_tried_again(told: dict[str, Any]) -> None:
    assert (told["shaky"]["error"], told["shaky"]["tries"]) == (None, 2)


def test_stopped_models_are_gone(told: dict[str, Any]) -> None:
    assert {"first", "second", "shaky"} <= set(told["running"])
    assert told["left"] == ["first", "shaky"]


def test_model_for_a_card_that_is_not_there_is_given_up_soon(told: dict[str, Any]) -> None:
    elsewhere = told["elsewhere"]
    assert elsewhere["error"] == "CannotStartError"
    assert "GPU" in elsewhere["message"]
    assert elsewhere["seconds"] < 60
    assert elsewhere["tries"] == 0


def test_workers_of_a_training_are_placed_on_the_card_beside_the_models(told: dict[str, Any]) -> None:
    assert told["trainings"] == [["0"], ["0", "0"]]
