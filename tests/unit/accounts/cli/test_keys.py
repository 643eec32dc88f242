import asyncio
import json
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from aihub.accounts.api_keys import ApiKey, parse_key
from aihub.accounts.authenticator import KeyAuthenticator
from aihub.cli.main import app
from aihub.core.embedded.stores import EmbeddedStores
from aihub.core.migrate import upgrade
from aihub.core.postgres import Database
from tests.external_servers import free_port
from tests.unit.accounts.cli.conftest import Run

DAY_S = 86_400


def made(run: Run, *options: str) -> dict[str, Any]:
    result = run("keys", "create", "--name", "test", "--json", *options)
    assert result.exit_code == 0, result.stderr
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_name_alone_makes_the_first_administrators_key(run: Run, empty_dsn: str) -> None:
    result = run("keys", "create", "--name", "laptop")
    assert result.exit_code == 0
    key = parse_key(result.stdout.strip())
    assert key is not None
    assert "first" in result.stderr
    assert key.text not in result.stderr
    (listed,) = json.loads(run("keys", "list", "--json").stdout)
    assert (listed["id"], listed["name"], listed["user"], listed["role"], listed["tenant_id"], listed["state"]) == (
        key.key_id,
        "laptop",
        "admin",
        "admin",
        "default",
        "active",
    )
    with psycopg.connect(empty_dsn) as connection:
        stored = connection.execute("SELECT api_keys::text FROM api_keys").fetchall()
    assert len(stored) == 1
    assert key.text[15:] not in stored[0][0]


def test_second_key_belongs_to_the_same_administrator_and_is_not_the_first(run: Run) -> None:
    first, second = made(run), made(run)
    assert (first["is_first"], second["is_first"]) == (True, False)
    assert first["user_id"] == second["user_id"]


async def recognise(dsn: str, text: str) -> Any:
    database = Database(dsn)
    await database.open()
    authenticator = KeyAuthenticator(database, is_local=False)
    try:
        return await authenticator.authenticate([f"Bearer {text}"])
    finally:
        await authenticator.close()
        await database.close()


def test_scopes_and_limits_of_the_command_are_those_of_the_key(run: Run, empty_dsn: str) -> None:
    run("users", "create", "lan")
    key = made(
        run,
        *("--user", "lan", "--expires", "90d", "--routes", "/v1/chat,/v1/models", "--models", "a", "--models", "b/c, d"),
        *("--vector-stores", "vs_1", "--requests-per-minute", "60", "--tokens-per-minute", "1000"),
        *("--streams", "2", "--tokens-per-day", "1000000"),
    )
    assert abs(key["expires_at"] - time.time() - 90 * DAY_S) < 60
    principal = asyncio.run(recognise(empty_dsn, key["key"]))
    assert principal.key_id == key["id"]
    assert principal.role == "user"
    assert principal.routes == {"/v1/chat", "/v1/models"}
    assert principal.models == {"a", "b/c", "d"}
    assert principal.vector_stores == {"vs_1"}
    assert principal.limits.requests_per_minute == 60
    assert principal.limits.tokens_per_minute == 1000
    assert principal.limits.streams == 2
    assert principal.limits.tokens_per_day == 10**6


def test_show_tells_all_but_the_secret(run: Run) -> None:
    key = made(run, "--models", "a", "--requests-per-minute", "60")
    shown = run("keys", "show", key["id"]).stdout
    for text in (key["id"], "admin", "default", "requests a minute     60", "without limit", "never"):
        assert text in shown
    assert key["key"][15:] not in shown
    as_json = json.loads(run("keys", "show", key["id"], "--json").stdout)
    assert as_json == {name: value for name, value in key.items() if name not in {"key", "is_first"}}


def test_revoking_is_seen_in_the_list_and_may_be_repeated(run: Run) -> None:
    key = made(run)
    for _ in range(2):
        result = run("keys", "revoke", key["id"])
        assert result.exit_code == 0
        assert "5 s" in result.stdout
    assert "revoked" in run("keys", "list").stdout
    first, second = (json.loads(run("keys", "revoke", key["id"], "--json").stdout)["revoked_at"] for _ in range(2))
    assert first == second


def test_list_shows_one_tenant_or_all(run: Run) -> None:
    run("tenants", "create", "acme")
    run("users", "create", "lan", "--tenant", "acme")
    ours, theirs = made(run), made(run, "--tenant", "acme", "--user", "lan")
    assert {key["id"] for key in json.loads(run("keys", "list", "--json").stdout)} == {ours["id"], theirs["id"]}
    listed = json.loads(run("keys", "list", "--tenant", "acme", "--json").stdout)
    assert [key["id"] for key in listed] == [theirs["id"]]
    assert run("keys", "list", "--tenant", "nobody").exit_code == 1


def test_empty_list_says_how_to_make_the_first(run: Run) -> None:
    assert "aihub keys create --name" in run("keys", "list").stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--user", "nobody"], "no user 'nobody'"),
        (["--tenant", "nobody"], "no tenant 'nobody'"),
        (["--tenant", "../x"], "letters"),
        (["--tenant", "default", "--role", "root"], "role"),
        (["--expires", "0d"], "past"),
        (["--expires", "2001-01-31"], "past"),
        (["--expires", "soon"], "90d"),
        (["--expires", "999999w"], "ten years"),
        (["--requests-per-minute", "-1"], "requests_per_minute"),
        (["--tokens-per-minute", "0"], "tokens_per_minute"),
        (["--streams", "0"], "streams"),
        (["--tokens-per-day", str(10**30)], "tokens_per_day"),
        (["--routes", "v1/chat"], "/v1/chat"),
        (["--routes", "/v1/chats"], "/v1/chat"),
        (["--routes", ""], "routes"),
        (["--models", "a,,b"], "models"),
        (["--models", "a b"], "spaces"),
        (["--vector-stores", "vs\x1b[31m"], "printed"),
        (["--name", "a\nb"], "printed"),
        (["--name", "a\x00b"], "printed"),
        (["--name", "x" * 65], "64"),
        (["--name", " "], "64"),
    ],
)
def test_wrong_wish_is_one_line_and_makes_nothing(run: Run, options: list[str], told: str) -> None:
    result = run("keys", "create", "--name", "test", *options)
    assert result.exit_code in {1, 2}
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert json.loads(run("keys", "list", "--json").stdout) == []


def test_key_is_never_above_its_user(run: Run) -> None:
    run("users", "create", "lan")
    result = run("keys", "create", "--name", "x", "--user", "lan", "--role", "admin")
    assert result.exit_code == 2
    assert "no administrator" in result.stderr
    run("users", "create", "an", "--role", "admin")
    assert made(run, "--user", "an", "--role", "user")["role"] == "user"


def test_disabled_user_gets_no_key(run: Run) -> None:
    run("users", "create", "lan")
    run("users", "disable", "lan")
    result = run("keys", "create", "--name", "x", "--user", "lan")
    assert result.exit_code == 2
    assert "aihub users enable lan" in result.stderr


def test_other_tenants_have_no_first_administrator_by_accident(run: Run) -> None:
    run("tenants", "create", "acme")
    result = run("keys", "create", "--name", "x", "--tenant", "acme")
    assert result.exit_code == 2
    assert "--user" in result.stderr
    assert json.loads(run("users", "list", "--json").stdout) == []


@pytest.mark.parametrize("command", ["show", "revoke"])
def test_key_itself_is_no_argument(run: Run, command: str) -> None:
    key = ApiKey.generate()
    result = run("keys", command, key.text)
    assert result.exit_code == 2
    assert "not by the key itself" in result.stderr
    assert key.text[15:] not in result.stderr


@pytest.mark.parametrize("key_id", ["key_00000000", "key_x", "'; DROP TABLE api_keys; --"])
def test_unknown_key_is_told_with_a_way_out(run: Run, key_id: str) -> None:
    for command in ("show", "revoke"):
        result = run("keys", command, key_id)
        assert result.exit_code in {1, 2}
        assert "aihub keys list" in result.stderr


def test_absent_database_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://x:geheim@127.0.0.1:{free_port()}/x")
    result = run("keys", "list")
    assert result.exit_code == 1
    assert result.stderr.startswith("aihub: PostgreSQL does not answer")
    assert result.stderr.count("\n") == 1
    assert "geheim" not in result.stderr


def test_embedded_database_is_used_with_and_without_a_running_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("AIHUB_HOME", str(tmp_path / "home"))

    def invoke(*arguments: str) -> Any:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    first = invoke("keys", "create", "--name", "before", "--json")
    stores = EmbeddedStores(tmp_path / "home")
    urls = stores.start()
    try:
        second = invoke("keys", "create", "--name", "beside", "--json")
        assert (first["is_first"], second["is_first"]) == (True, False)
        assert stores.is_running()
        with psycopg.connect(urls.database_url) as connection:
            assert connection.execute("SELECT count(*) FROM api_keys").fetchone() == (2,)
    finally:
        stores.stop()


def test_older_database_is_migrated_first(run: Run, external_postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(external_postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS older_accounts WITH (FORCE)")
        connection.execute("CREATE DATABASE older_accounts")
    dsn = external_postgres.url.removesuffix("postgres") + "older_accounts"
    upgrade(dsn, "0009")
    monkeypatch.setenv("DATABASE_URL", dsn)
    assert made(run)["is_first"] is True


def test_errors_of_the_command_line_show_no_values_of_variables() -> None:
    assert app.pretty_exceptions_show_locals is False
