from pathlib import Path

import pytest

from aihub.core.errors import ConfigurationError
from aihub.core.settings import Settings, is_allowed, is_loopback, own_names, parse_names, read_host

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


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("localhost.", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[fe80::1%25eth0]", "fe80::1"),
        ("hub.example.org:443", "hub.example.org"),
        ("xn--my-1la.vn", "xn--my-1la.vn"),
        ("docker_service:8000", "docker_service"),
        ("hub:", "hub"),
    ],
)
def test_a_host_header_names_one_host(header: str, host: str) -> None:
    assert read_host(header) == host


@pytest.mark.parametrize(
    "header",
    ["", " ", ":8000", "a b", "http://localhost", "localhost/x", "user@localhost", "localhost:80:80", "localhost:x", "[::1",
     "::1", "[localhost]", "127.0.0.1,evil.example", "a..b", "-a", "máy.vn", "x" * 300, "localhost\x00"],
)  # fmt: skip
def test_what_names_no_host_is_none(header: str) -> None:
    assert read_host(header) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "10.0.0.7", "203.0.113.5", "fe80::1"])
def test_localhost_and_addresses_need_no_setting(host: str) -> None:
    assert is_allowed(host, ())


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil-localhost", "2130706433", "127.1", "hub"]
)
def test_other_names_need_one(host: str) -> None:
    assert not is_allowed(host, ())
    assert not is_allowed(host, ("hub.example.org", "*.example.org"))
    assert is_allowed(host, (host,))
    assert is_allowed(host, ("*",))


def test_a_star_stands_for_the_names_below() -> None:
    assert is_allowed("a.example.org", ("*.example.org",))
    assert is_allowed("a.b.example.org", ("*.example.org",))
    assert not is_allowed("example.org", ("*.example.org",))
    assert not is_allowed("evilexample.org", ("*.example.org",))


def test_names_are_parsed_as_browsers_send_them() -> None:
    assert parse_names(["Hub.Example.ORG.", " ai ", "", "ai", "*.Lan", "*", "tiếngviệt.vn"]) == (
        "hub.example.org", "ai", "*.lan", "*", "xn--tingvit-5t4cyc.vn",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["http://hub", "hub:8000", "hub/x", "a b", "*x", "[::1]", "a.*.b", "é" * 200])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        parse_names([name])


def test_own_names_are_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Box.lan.example")
    assert own_names() == ("box.lan.example", "box", "box.local")
    assert parse_names(own_names()) == own_names()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_is_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "box"])  # noqa: S104  # nothing listens
def test_other_addresses_are_for_other_machines_too(host: str) -> None:
    assert not is_loopback(host)
