import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import ConfigurationError, InvalidRequestError
from aihub.models.configuration import ADDRESSES, ENVIRONMENT, ConfigurationStore, HubConfiguration


def open_store(folder: Path, **environ: str) -> ConfigurationStore:
    return ConfigurationStore(folder / "config.json", environ)


def audit(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "config-audit.jsonl").read_text(encoding="utf-8").splitlines()]


def test_nothing_configured_gives_the_defaults(tmp_path: Path) -> None:
    assert open_store(tmp_path).read() == HubConfiguration()


def test_every_setting_can_come_from_the_environment() -> None:
    assert set(ENVIRONMENT) == set(HubConfiguration.model_fields)


def test_variables_are_read_by_their_promised_names(tmp_path: Path) -> None:
    found = open_store(
        tmp_path,
        MAX_CONCURRENT_DOWNLOADS="5",
        MODEL_DOWNLOAD_TIMEOUT="60",
        AUTO_SETUP_ENABLED="false",
        DOWNLOAD_MODELS_ON_START="true",
        MODEL_UNLOAD_TIMEOUT="0",
        MAX_CONCURRENT_MODELS="2",
        LLM_PROVIDER="ollama",
        LOCAL_LLM_API_URL="http://gpu-box:8000/v1/",
        FALLBACK_ORDER="openai, local",
        DOWNLOAD_PROXY="",
    ).read()
    assert (found.max_concurrent_downloads, found.model_download_timeout_s) == (5, 60.0)
    assert (found.auto_setup_enabled, found.download_models_on_start) == (False, True)
    assert (found.model_unload_timeout_s, found.max_concurrent_models) == (0.0, 2)
    assert (found.llm_provider, found.local_llm_api_url) == ("ollama", "http://gpu-box:8000/v1")
    assert found.fallback_order == ("openai", "local")
    assert found.download_proxy is None


def test_variables_of_the_earlier_services_are_read(tmp_path: Path) -> None:
    found = open_store(
        tmp_path,
        OLLAMA_BASE_URL="http://gpu-box:11434/",
        OLLAMA_MODEL="gemma2:9b",
        PREFERRED_AI_PROVIDER="OpenAI",
        LOCAL_LLM_API_URL="http://127.0.0.1:9000/v1",
        MAX_CONCURRENT_MODELS="2",
        MODEL_UNLOAD_TIMEOUT="300",
    ).read()
    assert (found.ollama_url, found.ollama_model, found.llm_provider) == ("http://gpu-box:11434", "gemma2:9b", "openai")
    assert (found.local_llm_api_url, found.max_concurrent_models) == ("http://127.0.0.1:9000/v1", 2)
    assert found.model_unload_timeout_s == 300.0


def test_the_hubs_own_variable_wins_over_that_of_an_earlier_service(tmp_path: Path) -> None:
    addresses = {"OLLAMA_BASE_URL": "http://b:11434", "OLLAMA_HOST": "0.0.0.0:11434"}
    assert open_store(tmp_path, OLLAMA_URL="http://a:11434", **addresses).read().ollama_url == "http://a:11434"
    assert open_store(tmp_path, OLLAMA_URL="", **addresses).read().ollama_url == "http://b:11434"
    found = open_store(tmp_path, LLM_PROVIDER="ollama", PREFERRED_AI_PROVIDER="openai").read()
    assert found.llm_provider == "ollama"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PREFERRED_AI_PROVIDER", "gemini"),
        ("LLM_PROVIDER", "gemini"),
        ("OLLAMA_BASE_URL", "ftp://gpu-box"),
        ("OLLAMA_MODEL", "../gemma"),
        ("MAX_CONCURRENT_MODELS", "0"),
        ("MODEL_UNLOAD_TIMEOUT", "soon"),
    ],
)
def test_wrong_value_is_told_with_its_variable_in_one_line(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        open_store(tmp_path, **{variable: value}).read()
    assert f"{variable} is '{value}'" in raised.value.message
    assert "\n" not in raised.value.message


def test_wrong_proxy_is_named_but_its_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="DOWNLOAD_PROXY") as raised:
        open_store(tmp_path, DOWNLOAD_PROXY="socks://me:s3cret@proxy").read()
    assert "s3cret" not in raised.value.message


@pytest.mark.parametrize("value", ["http://gpu-box:11434/v1", "http://gpu-box:11434/api/", "gpu-box:11434"])
def test_address_of_ollama_may_end_in_the_path_of_its_apis(tmp_path: Path, value: str) -> None:
    assert open_store(tmp_path, OLLAMA_BASE_URL=value).read().ollama_url == "http://gpu-box:11434"


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("0.0.0.0:11500", "http://127.0.0.1:11500"),
        ("gpu-box", "http://gpu-box:11434"),
        (":11500", "http://127.0.0.1:11500"),
        ("https://ollama.shop.vn/", "https://ollama.shop.vn"),
    ],
)
def test_ollamas_own_form_of_its_host_is_understood(tmp_path: Path, value: str, url: str) -> None:
    assert open_store(tmp_path, OLLAMA_HOST=value).read().ollama_url == url


def test_file_wins_over_environment_and_configure_over_the_file(tmp_path: Path) -> None:
    store = open_store(tmp_path, MAX_CONCURRENT_MODELS="2", MAX_CONCURRENT_DOWNLOADS="7")
    (tmp_path / "config.json").write_text('{"max_concurrent_models": 4}', encoding="utf-8")
    assert store.read().max_concurrent_models == 4
    assert store.configure({"max_concurrent_models": 5}, "lan").max_concurrent_models == 5
    assert (store.read().max_concurrent_models, store.read().max_concurrent_downloads) == (5, 7)


def test_none_returns_a_setting_to_its_variable(tmp_path: Path) -> None:
    store = open_store(tmp_path, MAX_CONCURRENT_MODELS="2")
    store.configure({"max_concurrent_models": 5}, "lan")
    assert store.configure({"max_concurrent_models": None}, "lan").max_concurrent_models == 2
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {}


def test_change_survives_a_new_store_and_is_audited_with_who_and_what(tmp_path: Path) -> None:
    open_store(tmp_path).configure({"preferred_model": "qwen-tiếng-việt"}, "Nguyễn Lan")
    assert open_store(tmp_path).read().preferred_model == "qwen-tiếng-việt"
    (line,) = audit(tmp_path)
    assert line["actor"] == "Nguyễn Lan"
    assert line["changes"] == {"preferred_model": {"from": None, "to": "qwen-tiếng-việt"}}


def test_unknown_setting_is_refused_with_the_known_ones_and_nothing_changes(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(InvalidRequestError, match="Known are: .*max_concurrent_models") as caught:
        store.configure({"max_concurrent_models": 5, "colour": "red"}, "lan")
    assert (caught.value.code, caught.value.param) == ("unknown_setting", "colour")
    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "config-audit.jsonl").exists()


@pytest.mark.parametrize("name", sorted(ADDRESSES))
def test_no_request_changes_where_the_hub_connects_to(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        open_store(tmp_path).configure({name: "http://169.254.169.254/"}, "mallory")
    assert (caught.value.code, caught.value.param) == ("setting_not_changeable", name)


@pytest.mark.parametrize(
    "change",
    [
        {"max_concurrent_downloads": 0},
        {"max_concurrent_downloads": 1000},
        {"model_unload_timeout_s": -1},
        {"model_unload_timeout_s": float("nan")},
        {"model_download_timeout_s": float("inf")},
        {"provider_timeout_s": 0},
        {"llm_provider": "skynet"},
        {"fallback_order": ["local", "local"]},
        {"fallback_order": {"a": 1}},
        {"preferred_model": "x" * 300},
        {"auto_setup_enabled": "perhaps"},
    ],
)
def test_wrong_value_is_refused_by_name(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        open_store(tmp_path).configure(change, "lan")
    assert caught.value.param == next(iter(change))
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("content", ["{half", "[]", '{"colour": "red"}', '{"max_concurrent_models": "many"}'])
def test_wrong_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        open_store(tmp_path).read()


def test_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ollama_url"):
        open_store(tmp_path, OLLAMA_URL="file:///etc/passwd").read()


def test_proxy_is_never_shown(tmp_path: Path) -> None:
    found = open_store(tmp_path, DOWNLOAD_PROXY="http://lan:mat-khau@proxy:3128").read()
    assert found.download_proxy == "http://lan:mat-khau@proxy:3128"
    assert "mat-khau" not in repr(found) + json.dumps(found.shown())


def test_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    changes: list[dict[str, object]] = [
        {"max_concurrent_models": 6},
        {"max_concurrent_downloads": 7},
        {"min_residency_s": 8},
        {"provider_timeout_s": 9},
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda change: store.configure(change, "lan"), changes))
    found = store.read()
    assert (found.max_concurrent_models, found.max_concurrent_downloads) == (6, 7)
    assert (found.min_residency_s, found.provider_timeout_s) == (8, 9)
    assert len(audit(tmp_path)) == 4
