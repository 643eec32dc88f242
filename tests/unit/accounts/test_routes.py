import httpx
import pytest

from aihub.accounts.accounts import Accounts
from aihub.accounts.authenticator import KeyAuthenticator
from aihub.accounts.tables.users import UserTable
from aihub.core.errors import AuthenticationError, StorageUnavailableError
from aihub.core.principal import Principal
from tests.unit.accounts.account_parts import CountedDatabase, bearer, make_key
from tests.unit.http.services import Parts


async def test_open_hub_says_that_everybody_is_the_administrator(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.authenticator.keys.clear()
    answer = await client.get("/api/v1/account")
    assert answer.status_code == 200
    assert answer.json() == {
        "object": "account",
        "tenant_id": "default",
        "role": "admin",
        "user": None,
        "key": None,
        "routes": None,
        "models": None,
        "vector_stores": None,
        "limits": {"requests_per_minute": None, "tokens_per_minute": None, "streams": None, "tokens_per_day": None},
    }


async def test_key_is_told_all_about_itself_but_its_secret(accounts_database: CountedDatabase) -> None:
    key = await make_key(accounts_database, user="Nguyễn Lan", models=["b", "a"], streams=2)
    authenticator = KeyAuthenticator(accounts_database, is_local=False)
    principal = await authenticator.authenticate(bearer(key))
    answer = await Accounts(accounts_database).describe(principal)
    await authenticator.close()
    assert answer.user is not None
    assert (answer.user.id, answer.user.name, answer.user.is_service) == (principal.user_id, "Nguyễn Lan", False)
    assert answer.key is not None
    assert (answer.key.id, answer.key.name, answer.key.expires_at) == (key.key_id, "test", None)
    assert (answer.role, answer.models, answer.limits.streams) == ("user", ["a", "b"], 2)
    shown = answer.model_dump_json()
    assert key.text[15:] not in shown
    assert key.digest().hex() not in shown


async def test_key_deleted_meanwhile_is_refused_as_unknown(accounts_database: CountedDatabase) -> None:
    key = await make_key(accounts_database, user="lan")
    await UserTable(accounts_database).delete("default", "lan")
    with pytest.raises(AuthenticationError):
        await Accounts(accounts_database).describe(Principal(key_id=key.key_id, user_id="user_1"))


async def test_outage_is_told_to_who_has_a_key_and_minded_by_nobody_else(accounts_database: CountedDatabase) -> None:
    accounts_database.is_away = True
    assert (await Accounts(accounts_database).describe(Principal())).key is None
    with pytest.raises(StorageUnavailableError):
        await Accounts(accounts_database).describe(Principal(key_id="key_00000000"))
