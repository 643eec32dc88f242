import asyncio
import json

import psycopg
import pytest

from aihub.conversations.history import StoredHistory
from aihub.conversations.recent_turns import RecentTurns
from aihub.core.cache import Cache
from aihub.core.embedded.stores import StoreUrls
from aihub.core.principal import Principal
from tests.unit.accounts.cli.conftest import Run


def test_people_and_service_accounts_are_added_and_listed(run: Run) -> None:
    assert "--user 'Nguyễn Lan'" in run("users", "create", "Nguyễn Lan").stdout
    run("users", "create", "nightly", "--service", "--role", "admin")
    run("keys", "create", "--name", "k", "--user", "Nguyễn Lan")
    listed = {user["name"]: user for user in json.loads(run("users", "list", "--json").stdout)}
    assert (listed["Nguyễn Lan"]["role"], listed["Nguyễn Lan"]["is_service"], listed["Nguyễn Lan"]["keys"]) == ("user", False, 1)
    assert (listed["nightly"]["role"], listed["nightly"]["is_service"], listed["nightly"]["keys"]) == ("admin", True, 0)
    shown = run("users", "list").stdout
    assert "Nguyễn Lan" in shown
    assert "service" in shown


def test_two_spellings_of_one_name_are_one_user(run: Run) -> None:
    run("users", "create", "Nguyê\u0303n")
    result = run("users", "create", " Nguyễn ")
    assert result.exit_code == 1
    assert "already" in result.stderr


def test_same_name_in_another_tenant_is_another_user(run: Run) -> None:
    run("tenants", "create", "acme")
    ours = json.loads(run("users", "create", "lan", "--json").stdout)
    theirs = json.loads(run("users", "create", "lan", "--tenant", "acme", "--json").stdout)
    assert ours["id"] != theirs["id"]
    assert [user["id"] for user in json.loads(run("users", "list", "--tenant", "acme", "--json").stdout)] == [theirs["id"]]
    run("users", "delete", "lan", "--yes")
    assert [user["id"] for user in json.loads(run("users", "list", "--json").stdout)] == [theirs["id"]]


def test_disabled_user_keeps_keys_that_do_not_count_until_enabled(run: Run) -> None:
    run("users", "create", "lan")
    run("keys", "create", "--name", "k", "--user", "lan")
    for _ in range(2):
        assert run("users", "disable", "lan").exit_code == 0
    (key,) = json.loads(run("keys", "list", "--json").stdout)
    assert key["state"] == "disabled"
    assert "disabled" in run("users", "list").stdout
    assert run("users", "enable", "lan").exit_code == 0
    (key,) = json.loads(run("keys", "list", "--json").stdout)
    assert key["state"] == "active"


def test_user_is_deleted_with_keys_after_a_yes(run: Run) -> None:
    run("users", "create", "lan")
    run("keys", "create", "--name", "k", "--user", "lan")
    refused = run("users", "delete", "lan", answer="n\n")
    assert refused.exit_code == 1
    assert "all keys, conversations and preferences" in refused.stderr
    assert len(json.loads(run("keys", "list", "--json").stdout)) == 1
    result = run("users", "delete", "lan", answer="y\n")
    assert result.exit_code == 0
    assert "1 key" in result.stdout
    assert json.loads(run("keys", "list", "--json").stdout) == json.loads(run("users", "list", "--json").stdout) == []


async def keep_traces(redis_url: str, principals: list[Principal]) -> None:
    """Put a copy of a conversation of each into Redis, as a chat does."""
    cache = Cache(redis_url)
    for principal in principals:
        await RecentTurns(cache).put(principal, "conv_1", "1", StoredHistory())
    await cache.close()


async def read_traces(redis_url: str, principals: list[Principal]) -> list[bool]:
    cache = Cache(redis_url)
    found = [await RecentTurns(cache).get(principal, "conv_1", "1") is not None for principal in principals]
    await cache.close()
    return found


def test_conversations_of_a_deleted_user_go_and_so_do_their_copies_in_redis(
    run: Run, empty_dsn: str, embedded_stores: StoreUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", embedded_stores.redis_url)
    users = [json.loads(run("users", "create", name, "--json").stdout)["id"] for name in ("lan", "mai")]
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        for user_id in users:
            row = (f"conv_{user_id}", user_id)
            connection.execute("INSERT INTO conversations (tenant_id, id, owner_id) VALUES ('default', %s, %s)", row)
    principals = [Principal(user_id=user_id) for user_id in users]
    asyncio.run(keep_traces(embedded_stores.redis_url, principals))
    result = run("users", "delete", "lan", "--yes")
    assert "0 key(s) and 1 conversation(s)" in result.stdout
    assert asyncio.run(read_traces(embedded_stores.redis_url, principals)) == [False, True]
    assert json.loads(run("users", "delete", "mai", "--yes", "--json").stdout)["conversations"] == 1
    assert asyncio.run(read_traces(embedded_stores.redis_url, principals)) == [False, False]


def test_user_is_deleted_while_redis_is_away_and_the_rest_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("users", "create", "lan")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    result = run("users", "delete", "lan", "--yes")
    assert result.exit_code == 0
    assert "within an hour" in result.stderr
    assert json.loads(run("users", "list", "--json").stdout) == []


def test_deleted_user_comes_back_as_somebody_else(run: Run) -> None:
    first = json.loads(run("users", "create", "lan", "--json").stdout)
    assert json.loads(run("users", "delete", "lan", "--yes", "--json").stdout)["deleted"] is True
    assert json.loads(run("users", "create", "lan", "--json").stdout)["id"] != first["id"]


@pytest.mark.parametrize("command", [["disable"], ["enable"], ["delete", "--yes"], ["delete"]])
def test_unknown_user_is_one_line(run: Run, command: list[str]) -> None:
    result = run("users", command[0], "nobody", *command[1:])
    assert result.exit_code == 1
    assert "no user 'nobody'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a\x07b"], "printed"),
        (["x" * 65], "64"),
        (["lan", "--role", "owner"], "role"),
        (["lan", "--tenant", "nobody"], "aihub tenants create nobody"),
        (["lan", "--tenant", "a/b"], "letters"),
    ],
)
def test_wrong_user_is_refused_in_one_line(run: Run, arguments: list[str], told: str) -> None:
    result = run("users", "create", *arguments)
    assert result.exit_code in {1, 2}
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_tenants_are_added_once_and_listed(run: Run) -> None:
    assert run("tenants", "create", "acme", "--name", "Công ty Acme").exit_code == 0
    assert [tenant["id"] for tenant in json.loads(run("tenants", "list", "--json").stdout)] == ["acme", "default"]
    assert "Công ty Acme" in run("tenants", "list").stdout
    again = run("tenants", "create", "acme")
    assert again.exit_code == 1
    assert "already" in again.stderr


@pytest.mark.parametrize("tenant", ["", "a/b", "..", "-x", "_x", "á", "x" * 65, "a b", "a\n"])
def test_name_that_makes_no_folder_is_no_tenant(run: Run, tenant: str) -> None:
    result = run("tenants", "create", "--", tenant)
    assert result.exit_code == 2
    assert "letters" in result.stderr
