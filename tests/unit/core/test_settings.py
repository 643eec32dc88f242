from pathlib import Path

import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.settings import Settings

NAMES = ("DEFAULT_MAX_TOKENS", "DEFAULT_TEMPERATURE", "DEFAULT_TOP_P", "DEFAULT_TOP_K", "MAX_LENGTH")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_generation_variables_have_the_names_of_the_service_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("1000", "0.7", "0.9", "50", "4096"), strict=True):
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.default_max_tokens, settings.default_temperature) == (1000, 0.7)
    assert (settings.default_top_p, settings.default_top_k, settings.max_length) == (0.9, 50, 4096)


@pytest.mark.parametrize("name", NAMES)
def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "")
    assert getattr(Settings(), name.lower()) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEFAULT_MAX_TOKENS", "0"),
        ("DEFAULT_MAX_TOKENS", "many"),
        ("DEFAULT_MAX_TOKENS", "2000000"),
        ("DEFAULT_TEMPERATURE", "-0.1"),
        ("DEFAULT_TEMPERATURE", "2.1"),
        ("DEFAULT_TEMPERATURE", "nan"),
        ("DEFAULT_TOP_P", "0"),
        ("DEFAULT_TOP_P", "1.1"),
        ("DEFAULT_TOP_K", "-2"),
        ("DEFAULT_TOP_K", "1.5"),
        ("MAX_LENGTH", "255"),
        ("MAX_LENGTH", "long"),
        ("AIHUB_MAX_JSON_BYTES", "-1"),
        ("AIHUB_MODELS_MEMORY_GB", "nan"),
    ],
)
def test_wrong_value_is_refused_with_the_variables_name_and_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"{name}: .*{value}"):
        Settings()


def test_every_wrong_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEFAULT_TOP_P", "2")
    monkeypatch.setenv("MAX_LENGTH", "1")
    with pytest.raises(ConfigurationError) as raised:
        Settings()
    assert "DEFAULT_TOP_P" in raised.value.message
    assert "MAX_LENGTH" in raised.value.message


def test_settings_made_in_code_are_checked_too() -> None:
    assert Settings(home=Path("there")).home_path.name == "there"
    with pytest.raises(ConfigurationError, match="AIHUB_CHAT_TIMEOUT_S"):
        Settings(chat_timeout_s=0)


def test_models_may_be_named_by_the_variables_of_the_earlier_services(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIHUB_CHAT_MODEL", "AIHUB_SPEECH_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LLM_MODEL_PATH", "/models/trợ-lý")
    monkeypatch.setenv("VOSK_MODEL_PATH", "/models/vosk-model-small-vn-0.4")
    settings = Settings()
    assert (settings.chat_model, settings.speech_model) == ("/models/trợ-lý", Path("/models/vosk-model-small-vn-0.4"))
    monkeypatch.setenv("AIHUB_CHAT_MODEL", "own")
    assert Settings().chat_model == "own"
