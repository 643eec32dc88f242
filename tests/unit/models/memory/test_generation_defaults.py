import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aihub.core.profiles import GenerationProfile
from aihub.core.settings import Settings
from aihub.models.memory.generation_defaults import (
    GenerationDefaultsInForce,
    GenerationDefaultsStore,
    environment_defaults,
    merge_defaults,
    read_own_defaults,
    with_room_for_minimum,
)

VARIABLES = ("DEFAULT_MAX_TOKENS", "DEFAULT_TEMPERATURE", "DEFAULT_TOP_P", "DEFAULT_TOP_K", "MAX_LENGTH")
PROFILE = {"max_tokens": 1000, "temperature": 0.7, "top_p": 0.9, "top_k": 50}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def write_own(folder: Path, config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "generation_config.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lifecycle" / "generation.json"


def test_model_without_defaults_has_none(path: Path) -> None:
    assert GenerationDefaultsStore(path).read("smollm2") == {}


def test_changes_add_up_and_none_takes_one_back(path: Path) -> None:
    store = GenerationDefaultsStore(path)
    assert store.update("smollm2", {"temperature": 0.2, "top_k": 40}) == {"temperature": 0.2, "top_k": 40}
    assert store.update("smollm2", {"top_k": None, "max_tokens": 9}) == {"temperature": 0.2, "max_tokens": 9}
    assert store.read("smollm2") == {"temperature": 0.2, "max_tokens": 9}


def test_each_model_has_its_own_and_a_new_store_reads_them(path: Path) -> None:
    GenerationDefaultsStore(path).update("mô-hình", {"temperature": 0.0})
    GenerationDefaultsStore(path).update("other", {"temperature": 1.0})
    assert GenerationDefaultsStore(path).read("mô-hình") == {"temperature": 0.0}
    assert GenerationDefaultsStore(path).read("other") == {"temperature": 1.0}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"smollm2": 3}', "\x00"])
def test_damaged_file_counts_as_none_and_can_be_written_again(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    store = GenerationDefaultsStore(path)
    assert store.read("smollm2") == {}
    store.update("smollm2", {"top_p": 0.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"smollm2": {"top_p": 0.5}}


def test_changes_of_several_threads_are_all_kept(path: Path) -> None:
    store = GenerationDefaultsStore(path)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: store.update(f"model-{number}", {"top_k": number}), range(24)))
    assert [store.read(f"model-{number}") for number in range(24)] == [{"top_k": number} for number in range(24)]


def test_first_source_that_names_a_field_wins_field_by_field() -> None:
    own = {"temperature": 0.3, "top_p": 0.3, "top_k": 3, "repetition_penalty": 1.05}
    assert merge_defaults({}, {}, {}, PROFILE) == PROFILE
    assert merge_defaults({}, {}, own, PROFILE) == own | {"max_tokens": 1000}
    assert merge_defaults({}, {"top_p": 0.2, "top_k": 2}, own, PROFILE) == own | {"max_tokens": 1000, "top_p": 0.2, "top_k": 2}
    merged = merge_defaults({"top_k": -1}, {"top_p": 0.2, "top_k": 2}, own, PROFILE)
    assert merged == {"temperature": 0.3, "top_p": 0.2, "top_k": -1, "repetition_penalty": 1.05, "max_tokens": 1000}


@pytest.mark.parametrize("value", [0, 0.0])
def test_zero_is_a_value_not_an_absence(value: float) -> None:
    assert merge_defaults({"temperature": value}, {}, {"temperature": 0.6}, PROFILE)["temperature"] == 0


@pytest.mark.parametrize(
    ("run_time", "environment", "own", "expected"),
    [
        (None, None, 200, 200),
        (None, None, 32768, 1000),
        (None, 300, 200, 300),
        (None, 300, 32768, 300),
        (40, 300, 200, 40),
        (5000, 300, None, 5000),
    ],
)
def test_length_of_answers_is_the_operators_to_raise(
    run_time: int | None, environment: int | None, own: int | None, expected: int
) -> None:
    sources = [{} if value is None else {"max_tokens": value} for value in (run_time, environment, own)]
    assert merge_defaults(*sources, PROFILE)["max_tokens"] == expected


def test_environment_names_what_it_sets_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment_defaults(Settings()) == {}
    for name, value in zip(VARIABLES, ("1000", "0", "0.9", "50", "4096"), strict=True):
        monkeypatch.setenv(name, value)
    assert environment_defaults(Settings()) == {"max_tokens": 1000, "temperature": 0.0, "top_p": 0.9, "top_k": 50}


def test_authors_recommendation_is_read_by_the_names_requests_use(tmp_path: Path) -> None:
    qwen = {"do_sample": True, "eos_token_id": [1, 2], "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    own = read_own_defaults(write_own(tmp_path, qwen | {"max_new_tokens": 2048, "max_length": 20, "max_tokens": 7}))
    assert own == {"repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_tokens": 2048}


@pytest.mark.parametrize("config", ["", "{", "[]", "null", "{}", {"top_k": None}])
def test_unreadable_or_empty_recommendation_is_none(tmp_path: Path, config: Any) -> None:
    assert read_own_defaults(write_own(tmp_path, config)) == {}


def test_model_without_the_file_recommends_nothing(tmp_path: Path) -> None:
    assert read_own_defaults(tmp_path / "absent") == {}


@pytest.mark.parametrize(
    "wrong", [{"temperature": "hot"}, {"temperature": 9.0}, {"top_p": 0}, {"top_k": 1.5}, {"max_new_tokens": 0}, {"min_p": True}]
)
def test_value_no_request_may_have_is_left_out_and_logged_and_the_others_count(
    tmp_path: Path, wrong: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert read_own_defaults(write_own(tmp_path, {"repetition_penalty": 1.1} | wrong)) == {"repetition_penalty": 1.1}
    assert "it does not count" in caplog.text


@pytest.fixture
def in_force(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GenerationDefaultsInForce:
    monkeypatch.setenv("DEFAULT_TEMPERATURE", "0.4")
    folder = write_own(tmp_path / "model", {"temperature": 0.6, "top_k": 20})
    folders = {"qwen": folder}
    return GenerationDefaultsInForce(GenerationDefaultsStore(path), Settings(), GenerationProfile(), folders.get)


def test_null_takes_a_field_back_to_the_next_source(in_force: GenerationDefaultsInForce) -> None:
    started = {"max_tokens": 1000, "temperature": 0.4, "top_p": 0.9, "top_k": 20}
    assert in_force.read("qwen") == started
    assert in_force.update("qwen", {"temperature": 0.0, "max_tokens": 5}) == started | {"temperature": 0.0, "max_tokens": 5}
    assert in_force.read("qwen") == started | {"temperature": 0.0, "max_tokens": 5}
    assert in_force.update("qwen", {"temperature": None}) == started | {"max_tokens": 5}
    assert in_force.update("qwen", {"max_tokens": None, "top_k": None}) == started


def test_changes_survive_a_restart_and_stay_with_their_model(in_force: GenerationDefaultsInForce, path: Path) -> None:
    in_force.update("qwen", {"top_p": 0.5})
    again = GenerationDefaultsInForce(GenerationDefaultsStore(path), Settings(), GenerationProfile(), {}.get)
    assert again.read("qwen")["top_p"] == 0.5
    assert again.read("other") == PROFILE | {"temperature": 0.4}


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({}, None),
        ({"min_tokens": 10}, None),
        ({"min_tokens": 1000}, None),
        ({"min_tokens": 1001}, 1001),
        ({"min_tokens": 2000, "max_tokens": 2500}, 2500),
        ({"min_tokens": 2000, "max_completion_tokens": 2500}, None),
    ],
)
def test_default_limit_never_contradicts_the_minimum_a_client_asks_for(body: dict[str, Any], limit: int | None) -> None:
    sent = with_room_for_minimum(body, PROFILE)
    assert sent.get("max_tokens") == limit
    assert {name: value for name, value in sent.items() if name != "max_tokens"}.items() <= body.items()


def test_minimum_without_any_default_limit_is_left_alone() -> None:
    assert with_room_for_minimum({"min_tokens": 9}, {}) == {"min_tokens": 9}
