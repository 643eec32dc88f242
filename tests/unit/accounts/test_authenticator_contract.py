"""What every authenticator does, over real tables and without."""

from collections.abc import AsyncIterator

import pytest

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.authenticator import KeyAuthenticator
from aihub.accounts.fake import FakeAuthenticator
from aihub.accounts.service import Authenticator
from aihub.core.errors import AuthenticationError, StorageUnavailableError
from aihub.core.principal import Principal
from tests.unit.accounts.account_parts import CountedDatabase, bearer, make_key


class RealHub:
    """An authenticator of a hub that only its machine reaches."""

    def __init__(self, database: CountedDatabase) -> None:
        self.database = database
        self.authenticator: Authenticator = KeyAuthenticator(database, is_local=True)

    async def make_key(self) -> ApiKey:
        return await make_key(self.database)

    def lose_storage(self) -> None:
        self.database.is_away = True


class FakeHub:
    def __init__(self) -> None:
        self.fake = FakeAuthenticator()
        self.authenticator: Authenticator = self.fake

    async def make_key(self) -> ApiKey:
        key = ApiKey.generate()
        self.fake.keys[key.text] = Principal(user_id="user_1", key_id=key.key_id)
        return key

    def lose_storage(self) -> None:
        self.fake.is_away = True


Hub = RealHub | FakeHub


@pytest.fixture(params=["real", "fake"])
async def hub(request: pytest.FixtureRequest, accounts_database: CountedDatabase) -> AsyncIterator[Hub]:
    if request.param == "fake":
        yield FakeHub()
        return
    real = RealHub(accounts_database)
    yield real
    assert isinstance(real.authenticator, KeyAuthenticator)
    await real.authenticator.close()


@pytest.mark.parametrize("authorization", [[], ["Bearer anything"], ["Basic dTpw"]])
async def test_hub_without_keys_takes_everybody_for_the_administrator(hub: Hub, authorization: list[str]) -> None:
    assert await hub.authenticator.authenticate(authorization) == Principal()


async def test_key_says_whose_it_is(hub: Hub) -> None:
    key = await hub.make_key()
    principal = await hub.authenticator.authenticate(bearer(key))
    assert principal.key_id == key.key_id
    assert principal.user_id
    assert (principal.tenant_id, principal.role) == ("default", "admin")


async def test_scheme_may_be_written_in_any_case_and_spaced(hub: Hub) -> None:
    key = await hub.make_key()
    for written in (f"bearer {key.text}", f"BEARER   {key.text} ", f" Bearer {key.text}"):
        assert (await hub.authenticator.authenticate([written])).key_id == key.key_id


async def test_hub_with_a_key_refuses_a_request_without(hub: Hub) -> None:
    await hub.make_key()
    with pytest.raises(AuthenticationError, match="AIHUB_API_KEY.*aihub keys create") as caught:
        await hub.authenticator.authenticate([])
    assert caught.value.code == "missing_api_key"


@pytest.mark.parametrize(
    "shape",
    [
        "Basic {key}",
        "{key}",
        "Bearer",
        "Bearer ",
        "Bearer {key}x",
        "Bearer '{key}'",
        'Bearer "{key}"',
        "Bearer {key} {key}",
        "Bearer {key}, Bearer {key}",
        "Bearer {key}' OR pg_sleep(5) --",
        "Bearer\t{key}\n",
        "Bearer {upper}",
        "Bearer ａｉｈｕｂ_00000000_",
        "Bearer aihub_00000000_" + "A" * 43,
        "Bearer " + "A" * 100_000,
    ],
)
async def test_anything_but_a_key_is_refused_and_never_repeated(hub: Hub, shape: str) -> None:
    key = await hub.make_key()
    sent = shape.format(key=key.text, upper=key.text.upper())
    with pytest.raises(AuthenticationError) as caught:
        await hub.authenticator.authenticate([sent])
    assert caught.value.code == "invalid_api_key"
    assert key.text[15:] not in caught.value.message
    assert len(caught.value.message) < 300


async def test_right_prefix_with_another_secret_is_refused(hub: Hub) -> None:
    key, other = await hub.make_key(), ApiKey.generate()
    await hub.authenticator.authenticate(bearer(key))
    mixed = key.text[:15] + other.text[15:]
    with pytest.raises(AuthenticationError):
        await hub.authenticator.authenticate([f"Bearer {mixed}"])


async def test_two_headers_are_refused_even_where_one_is_right(hub: Hub) -> None:
    key = await hub.make_key()
    with pytest.raises(AuthenticationError, match="exactly one"):
        await hub.authenticator.authenticate(bearer(key) * 2)


async def test_key_that_cannot_be_checked_is_told_to_come_again(hub: Hub) -> None:
    key = await hub.make_key()
    hub.lose_storage()
    with pytest.raises(StorageUnavailableError) as caught:
        await hub.authenticator.authenticate(bearer(key))
    assert caught.value.retry_after_s


async def test_hub_that_cannot_know_whether_it_has_keys_lets_nobody_in(hub: Hub) -> None:
    hub.lose_storage()
    with pytest.raises(StorageUnavailableError):
        await hub.authenticator.authenticate([])
