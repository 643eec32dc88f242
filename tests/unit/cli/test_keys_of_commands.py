"""Every command that asks a hub sends AIHUB_API_KEY, and says in one line what is wrong with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner, Result

from aihub.cli.main import app
from aihub.core.errors import ConfigurationError
from aihub.core.hub_requests import error_of, hub_headers
from tests.unit.conftest import LiveServer
from tests.unit.http.keys import USER_KEY, known_keys
from tests.unit.http.services import Parts

# Commands that ask the running hub, with arguments they take; `+` stands for a file that exists.
ASKING = {
    "models status": "",
    "models detect": "",
    "models download": "--models vosk:vi",
    "models validate": "--models vosk:vi",
    "models bench": "--models package:smollm2",
    "models cleanup": "",
    "models recommended": "",
    "models configure": "",
    "models pin": "vosk:vi",
    "models unpin": "vosk:vi",
    "models rollback": "vosk:vi",
    "models update": "vosk:vi",
    "models load": "smollm2",
    "models unload": "smollm2",
    "models ps": "",
    "train start": "+ --model smollm2",
    "train list": "",
    "train status": "ftjob-1",
    "train watch": "ftjob-1",
    "train plot": "ftjob-1 plot.svg",
    "train cancel": "ftjob-1",
    "train pause": "ftjob-1",
    "train resume": "ftjob-1",
    "train adapters": "",
    "train promote": "a:b@1",
    "train rollback": "a:b",
    "train merge": "a:b@1",
    "train delete": "a:b@1",
    "speech transcribe": "+",
    "speech models": "",
    "usage": "",
}
# They work on this machine's files and databases.
LOCAL = {"plan", "serve", "train check"}
LOCAL_GROUPS = {"db", "keys", "users", "tenants", "recsys"}
# What a user may do, so that a user's key is not refused.
FOR_USERS = {"models ps", "train list", "train status", "train watch", "train plot", "train adapters"}
FOR_USERS |= {"train start", "speech transcribe", "speech models", "usage"}


@pytest.fixture(scope="module")
def closed_hub() -> Iterator[LiveServer]:
    live = LiveServer(Parts(authenticator=known_keys()))
    live.start()
    yield live
    live.stop()


@pytest.fixture(autouse=True)
def at_the_hub(closed_hub: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_URL", closed_hub.url)
    monkeypatch.setenv("AIHUB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("AIHUB_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


def commands_of(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, (*path, name))
        else:
            yield " ".join((*path, name))


def call(name: str, tmp_path: Path) -> Result:
    data = tmp_path / "data.jsonl"
    data.write_text('{"messages": []}\n', encoding="utf-8")
    arguments = [str(data) if part == "+" else part for part in ASKING[name].split()]
    return CliRunner().invoke(app, [*name.split(), *arguments])


def test_every_command_is_looked_at_here() -> None:
    found = {name for name in commands_of(typer.main.get_command(app)) if name.split()[0] not in LOCAL_GROUPS}
    assert found == ASKING.keys() | LOCAL


@pytest.mark.parametrize("name", ASKING)
def test_command_without_a_key_names_the_variable(name: str, tmp_path: Path) -> None:
    result = call(name, tmp_path)
    assert result.exit_code == 1, result.output
    *before, last = result.stderr.strip().splitlines()
    assert "set AIHUB_API_KEY" in last
    assert [line for line in before if not line.startswith("Using the hub at")] == []
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("name", ASKING)
def test_command_with_a_wrong_key_names_the_variable_and_keeps_the_key_to_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = f"{USER_KEY[:-1]}w"
    monkeypatch.setenv("AIHUB_API_KEY", wrong)
    result = call(name, tmp_path)
    assert result.exit_code == 1, result.output
    assert "refuses the key of AIHUB_API_KEY" in result.stderr.strip().splitlines()[-1]
    assert wrong[15:] not in result.output


@pytest.mark.parametrize("name", sorted(ASKING.keys() - FOR_USERS))
def test_user_who_runs_an_administrators_command_is_told_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_API_KEY", USER_KEY)
    result = call(name, tmp_path)
    assert result.exit_code == 1, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert "The key of AIHUB_API_KEY may not do this." in last
    assert "administrator" in last


def test_speech_models_are_listed_with_a_users_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_API_KEY", f" {USER_KEY}\n")
    assert call("speech models", tmp_path).exit_code == 0


@pytest.mark.parametrize("value", ["khoá", "aihub_a b\nc", "a\x00b"])
def test_key_that_no_header_can_carry_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr("os.environ", {"AIHUB_API_KEY": value})
    with pytest.raises(ConfigurationError, match="AIHUB_API_KEY") as refused:
        hub_headers()
    assert value not in refused.value.message


def test_refusal_of_a_proxy_is_shown_as_it_is() -> None:
    assert error_of(httpx.Response(401, text="<html>login</html>")).message.endswith("<html>login</html>")
