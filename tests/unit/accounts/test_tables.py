"""What holds when several commands change accounts at once."""

import asyncio

from aihub.accounts.requests import KeyRequest
from aihub.accounts.tables.api_keys import ApiKeyTable
from aihub.accounts.tables.users import UserTable
from aihub.core.errors import ConflictError, HubError
from tests.unit.accounts.account_parts import CountedDatabase


async def test_keys_made_at_once_have_one_administrator_and_one_first(accounts_database: CountedDatabase) -> None:
    keys = ApiKeyTable(accounts_database)
    made = await asyncio.gather(*(keys.create(KeyRequest(name=f"k{number}")) for number in range(8)))
    assert len({created.key.text for created in made}) == 8
    assert len({created.record.user_id for created in made}) == 1
    assert sum(created.is_first for created in made) == 1


async def test_user_added_twice_at_once_is_there_once(accounts_database: CountedDatabase) -> None:
    users = UserTable(accounts_database)
    results = await asyncio.gather(
        *(users.create("default", "lan", "user", is_service=False) for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(result, ConflictError) for result in results) == 5
    assert [user.name for user in await users.list("default")] == ["lan"]


async def test_key_made_while_its_user_is_deleted_is_gone_or_never_was(accounts_database: CountedDatabase) -> None:
    users, keys = UserTable(accounts_database), ApiKeyTable(accounts_database)
    for _ in range(10):
        await users.create("default", "lan", "user", is_service=False)
        results = await asyncio.gather(
            keys.create(KeyRequest(name="k", user="lan")),
            users.delete("default", "lan"),
            keys.create(KeyRequest(name="k", user="lan")),
            return_exceptions=True,
        )
        assert not isinstance(results[1], BaseException)
        assert all(not isinstance(result, Exception) or isinstance(result, HubError) for result in results)
        assert [result.status for result in results if isinstance(result, HubError)] in ([], [404], [404, 404])
        assert await keys.list(None) == []


async def test_user_disabled_while_a_key_is_made_has_no_key_that_counts(accounts_database: CountedDatabase) -> None:
    users, keys = UserTable(accounts_database), ApiKeyTable(accounts_database)
    await users.create("default", "lan", "user", is_service=False)
    await asyncio.gather(
        keys.create(KeyRequest(name="k", user="lan")),
        users.set_disabled("default", "lan", is_disabled=True),
        return_exceptions=True,
    )
    assert [key.state for key in await keys.list("default") if key.state == "active"] == []
