import socket
from pathlib import Path

import pytest
from pydantic import SecretStr

from aihub.cli import preflight
from aihub.core.errors import ConfigurationError
from aihub.core.postgres import Database
from aihub.core.settings import Settings
from tests.embedded_parts import servers_of
from tests.external_servers import free_port
from tests.unit.accounts.account_parts import make_key

CONFIG = "http_options: {host: 127.0.0.1, port: %d}\napplications: []\n"


def write_config(folder: Path, port: int) -> Path:
    path = folder / "serve_config.yaml"
    path.write_text(CONFIG % port, encoding="utf-8")
    return path


def test_good_machine_gets_a_plan_with_the_configs_address(tmp_path: Path) -> None:
    port = free_port()
    plan = preflight.check(write_config(tmp_path, port), None, Settings(home=tmp_path / "home"))
    assert plan.api_url == f"http://127.0.0.1:{port}"


def test_port_option_overrides_the_config_without_touching_the_file(tmp_path: Path) -> None:
    config = write_config(tmp_path, free_port())
    before = config.read_text(encoding="utf-8")
    port = free_port()
    plan = preflight.check(config, port, Settings(home=tmp_path / "home"))
    assert plan.api_url.endswith(str(port))
    assert config.read_text(encoding="utf-8") == before


def test_busy_port_is_named_with_a_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        with pytest.raises(ConfigurationError, match=rf"Port {port} .* busy .* make serve PORT={port + 1}"):
            preflight.check(write_config(tmp_path, port), None, Settings(home=tmp_path / "home"))


def test_full_disk_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "NEEDED_BYTES", 10**18)
    with pytest.raises(ConfigurationError, match="GB are free .* are needed"):
        preflight.check(write_config(tmp_path, free_port()), None, Settings(home=tmp_path / "home"))


def test_missing_compiler_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"apt-get install g\+\+"):
        preflight.check(write_config(tmp_path, free_port()), None, Settings(home=tmp_path / "home"))


def test_missing_config_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="was not found"):
        preflight.check(tmp_path / "none.yaml", None, Settings(home=tmp_path / "home"))


def test_unusable_state_folder_is_named(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="Set AIHUB_HOME"):
        preflight.check(write_config(tmp_path, free_port()), None, Settings(home=blocker / "home"))


def test_log_line_of_a_configuration_error_becomes_the_message(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text("noise\n(pid=1) aihub.core.errors.ConfigurationError: The model is missing. Run X.\nnoise\n", encoding="utf-8")
    assert preflight.explain_failure(log) == "The model is missing. Run X."


def test_rays_pace_is_set_unless_the_caller_has_set_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.1")
    monkeypatch.delenv("RAY_num_workers_soft_limit", raising=False)
    plan = preflight.check(write_config(tmp_path, free_port()), None, Settings(home=tmp_path / "home"))
    assert "RAY_SERVE_CONTROL_LOOP_INTERVAL_S" not in plan.environment
    assert plan.environment["RAY_num_workers_soft_limit"] == "0"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PREFERRED_AI_PROVIDER", "gemini"),
        ("MAX_CONCURRENT_MODELS", "none"),
        ("RECOMMENDATION_EPOCHS", "0"),
        ("RECSYS_MAX_EVENTS", "0"),
        ("DB_HOST", "db.shop.vn"),
    ],
)
def test_mistake_in_a_variable_of_any_application_is_told_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    for name in ("DB_NAME", "LLM_PROVIDER", "RECSYS_DATABASE_URL", variable):
        monkeypatch.delenv(name, raising=False)
    preflight.check_variables(Settings(home=tmp_path))
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable):
        preflight.check_variables(Settings(home=tmp_path))


def listen_elsewhere(folder: Path) -> Path:
    path = folder / "serve_config.yaml"
    path.write_text(CONFIG.replace("127.0.0.1", "0.0.0.0") % free_port(), encoding="utf-8")  # noqa: S104  # nothing listens
    return path


@pytest.mark.parametrize("is_option", [False, True])
def test_hub_without_keys_is_not_started_where_other_machines_reach_it(tmp_path: Path, empty_dsn: str, is_option: bool) -> None:
    settings = Settings(home=tmp_path / "home", database_url=SecretStr(empty_dsn))
    config = write_config(tmp_path, free_port()) if is_option else listen_elsewhere(tmp_path)
    host = "0.0.0.0" if is_option else None  # noqa: S104  # nothing listens
    with pytest.raises(ConfigurationError, match="aihub keys create --name"):
        preflight.check(config, None, settings, host=host)


async def test_hub_with_a_key_may_be_started_anywhere(tmp_path: Path, empty_dsn: str, accounts_database: Database) -> None:
    await make_key(accounts_database)
    settings = Settings(home=tmp_path / "home", database_url=SecretStr(empty_dsn))
    plan = preflight.check(listen_elsewhere(tmp_path), None, settings)
    assert plan.api_url.startswith("http://127.0.0.1:")


def test_host_option_overrides_the_config_without_touching_the_file(tmp_path: Path) -> None:
    config = write_config(tmp_path, free_port())
    before = config.read_text(encoding="utf-8")
    plan = preflight.check(config, None, Settings(home=tmp_path / "home"), host="127.0.0.2")
    assert plan.api_url.startswith("http://127.0.0.2:")
    assert "127.0.0.2" in plan.config_path.read_text(encoding="utf-8")
    assert config.read_text(encoding="utf-8") == before


def test_embedded_database_of_a_fresh_machine_is_asked_and_stopped_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    home = tmp_path / "home"
    with pytest.raises(ConfigurationError, match="aihub keys create --name"):
        preflight.check(listen_elsewhere(tmp_path), None, Settings(home=home))
    assert servers_of(home) == []
