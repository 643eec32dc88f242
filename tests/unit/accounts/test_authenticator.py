import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest

from aihub.accounts import recent_keys
from aihub.accounts.api_keys import ApiKey
from aihub.accounts.authenticator import KeyAuthenticator
from aihub.accounts.recent_keys import FRESH_S, KEPT_S
from aihub.accounts.tables.api_keys import ApiKeyTable
from aihub.accounts.tables.users import UserTable
from aihub.core.errors import AuthenticationError, OverloadedError, StorageUnavailableError
from aihub.core.postgres import Database
from aihub.core.principal import KeyLimits, Principal
from tests.external_servers import ExternalPostgres
from tests.unit.accounts.account_parts import Clock, CountedDatabase, bearer, make_key

Make = Callable[..., KeyAuthenticator]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(accounts_database: CountedDatabase, clock: Clock) -> AsyncIterator[Make]:
    made: list[KeyAuthenticator] = []

    def authenticator(*, is_local: bool = False) -> KeyAuthenticator:
        made.append(KeyAuthenticator(accounts_database, is_local=is_local, clock=clock))
        return made[-1]

    yield authenticator
    accounts_database.gate.set()
    for one in made:
        await one.close()


async def code_of(authenticator: KeyAuthenticator, authorization: list[str]) -> str:
    with pytest.raises(AuthenticationError) as caught:
        await authenticator.authenticate(authorization)
    return caught.value.code


async def test_everything_of_a_key_is_in_its_principal(accounts_database: CountedDatabase, make: Make) -> None:
    key = await make_key(
        accounts_database,
        user="lan",
        routes=["/v1/chat", "/v1/models"],
        models=["smollm2-135m-instruct"],
        vector_stores=["vs_1"],
        requests_per_minute=60,
        tokens_per_minute=1000,
        streams=2,
        tokens_per_day=10**6,
    )
    user = await UserTable(accounts_database).get("default", "lan")
    assert await make().authenticate(bearer(key)) == Principal(
        tenant_id="default",
        role="user",
        user_id=user.id,
        key_id=key.key_id,
        routes=frozenset({"/v1/chat", "/v1/models"}),
        models=frozenset({"smollm2-135m-instruct"}),
        vector_stores=frozenset({"vs_1"}),
        limits=KeyLimits(60, 1000, 2, 10**6),
    )


async def test_hundred_callers_at_once_make_one_query(accounts_database: CountedDatabase, make: Make) -> None:
    key = await make_key(accounts_database)
    authenticator, before = make(), accounts_database.questions
    found = await asyncio.gather(*(authenticator.authenticate(bearer(key)) for _ in range(100)))
    assert {principal.key_id for principal in found} == {key.key_id}
    assert accounts_database.questions == before + 1


async def test_many_different_keys_at_once_use_one_connection_at_a_time(accounts_database: CountedDatabase, make: Make) -> None:
    keys = [await make_key(accounts_database) for _ in range(20)]
    authenticator, before = make(), accounts_database.questions
    accounts_database.gate.clear()
    asked = [asyncio.create_task(authenticator.authenticate(bearer(key))) for key in keys]
    await asyncio.sleep(0.05)
    assert accounts_database.questions == before + 1
    accounts_database.gate.set()
    assert [principal.key_id for principal in await asyncio.gather(*asked)] == [key.key_id for key in keys]
    assert accounts_database.questions <= before + 2


async def test_cancelled_caller_takes_nothing_from_the_others(accounts_database: CountedDatabase, make: Make) -> None:
    key = await make_key(accounts_database)
    authenticator = make()
    accounts_database.gate.clear()
    asked = [asyncio.create_task(authenticator.authenticate(bearer(key))) for _ in range(3)]
    await asyncio.sleep(0.01)
    asked[0].cancel()
    await asyncio.sleep(0.01)
    assert asked[0].cancelled()
    accounts_database.gate.set()
    assert [(await other).key_id for other in asked[1:]] == [key.key_id] * 2


async def test_closing_ends_those_who_wait(accounts_database: CountedDatabase, make: Make) -> None:
    key = await make_key(accounts_database)
    authenticator = make()
    accounts_database.gate.clear()
    asked = asyncio.create_task(authenticator.authenticate(bearer(key)))
    await asyncio.sleep(0.01)
    await authenticator.close()
    with pytest.raises(StorageUnavailableError):
        await asyncio.wait_for(asked, 1)


async def test_known_key_is_not_asked_for_again_for_seconds(accounts_database: CountedDatabase, make: Make, clock: Clock) -> None:
    key = await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(key))
    before = accounts_database.questions
    clock.now_s += FRESH_S / 2 - 0.1
    await authenticator.authenticate(bearer(key))
    assert accounts_database.questions == before


async def test_key_in_use_is_looked_up_again_without_making_its_callers_wait(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    key = await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(key))
    clock.now_s += FRESH_S - 0.1
    accounts_database.gate.clear()
    await asyncio.wait_for(authenticator.authenticate(bearer(key)), 1)
    accounts_database.gate.set()
    await settled(authenticator)
    clock.now_s += FRESH_S / 2 - 0.1
    before = accounts_database.questions
    await authenticator.authenticate(bearer(key))
    assert accounts_database.questions == before


async def test_revoked_key_is_refused_everywhere_within_seconds(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    key = await make_key(accounts_database)
    replicas = [make(), make()]
    for replica in replicas:
        await replica.authenticate(bearer(key))
    await ApiKeyTable(accounts_database).revoke(key.key_id)
    assert FRESH_S <= 5
    clock.now_s += FRESH_S
    for replica in replicas:
        assert await code_of(replica, bearer(key)) == "revoked_api_key"


async def test_disabled_user_is_refused_and_let_in_again(accounts_database: CountedDatabase, make: Make, clock: Clock) -> None:
    key = await make_key(accounts_database, user="lan")
    authenticator, users = make(), UserTable(accounts_database)
    await users.set_disabled("default", "lan", is_disabled=True)
    assert await code_of(authenticator, bearer(key)) == "disabled_user"
    await users.set_disabled("default", "lan", is_disabled=False)
    clock.now_s += FRESH_S
    assert (await authenticator.authenticate(bearer(key))).key_id == key.key_id


async def test_keys_of_a_deleted_user_are_unknown(accounts_database: CountedDatabase, make: Make, clock: Clock) -> None:
    key = await make_key(accounts_database, user="lan")
    authenticator = make()
    await authenticator.authenticate(bearer(key))
    assert (await UserTable(accounts_database).delete("default", "lan")).keys == 1
    clock.now_s += FRESH_S
    assert await code_of(authenticator, bearer(key)) == "invalid_api_key"


async def test_key_expires_to_the_second_while_it_is_remembered(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    key = await make_key(accounts_database, expires_at=datetime.now(UTC) + timedelta(seconds=2))
    authenticator, before = make(), accounts_database.questions
    await authenticator.authenticate(bearer(key))
    clock.now_s += 2
    assert await code_of(authenticator, bearer(key)) == "expired_api_key"
    assert accounts_database.questions == before + 1


async def test_administrators_key_of_a_user_who_is_none_any_more_is_a_users(
    accounts_database: CountedDatabase, make: Make
) -> None:
    key = await make_key(accounts_database, user="lan", role="admin")
    async with accounts_database.transaction() as connection:
        await connection.execute("UPDATE users SET role = 'user' WHERE name = 'lan'")
    assert (await make().authenticate(bearer(key))).role == "user"


async def test_unknown_key_is_not_asked_for_again_for_seconds_and_then_found(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    authenticator, stranger = make(), ApiKey.generate()
    assert await code_of(authenticator, bearer(stranger)) == "invalid_api_key"
    before = accounts_database.questions
    assert await code_of(authenticator, bearer(stranger)) == "invalid_api_key"
    assert accounts_database.questions == before
    await make_key(accounts_database)
    async with accounts_database.transaction() as connection:
        await connection.execute("UPDATE api_keys SET prefix = %s, sha256 = %s", (stranger.prefix, stranger.digest()))
    clock.now_s += FRESH_S
    assert (await authenticator.authenticate(bearer(stranger))).key_id == stranger.key_id


async def test_malformed_and_unknown_keys_are_compared_like_known_ones(
    accounts_database: CountedDatabase, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key(accounts_database)
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def noted(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    authenticator = make()
    wrong = f"Bearer {key.text[:15]}{ApiKey.generate().text[15:]}"
    for authorization in ([], ["Basic x"], bearer(ApiKey.generate()), [wrong], bearer(key)):
        try:
            await authenticator.authenticate(authorization)
        except AuthenticationError:
            pass
    assert compared == [(32, 32)] * 5


async def test_first_key_closes_an_open_hub_within_seconds_and_for_good(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    authenticator = make(is_local=True)
    assert await authenticator.authenticate([]) == Principal()
    key = await make_key(accounts_database)
    clock.now_s += FRESH_S
    assert await code_of(authenticator, []) == "missing_api_key"
    assert (await authenticator.authenticate(bearer(key))).key_id == key.key_id
    await UserTable(accounts_database).delete("default", "admin")
    clock.now_s += FRESH_S
    for replica in (authenticator, make(is_local=True)):
        assert await code_of(replica, []) == "missing_api_key"


async def test_open_hub_asks_the_database_once_in_seconds(accounts_database: CountedDatabase, make: Make, clock: Clock) -> None:
    authenticator, before = make(is_local=True), accounts_database.questions
    await asyncio.gather(*(authenticator.authenticate([]) for _ in range(100)))
    clock.now_s += FRESH_S / 2 - 0.1
    await authenticator.authenticate([])
    assert accounts_database.questions == before + 1


async def test_hub_that_others_reach_is_closed_though_it_has_no_key(make: Make) -> None:
    assert await code_of(make(is_local=False), []) == "missing_api_key"


async def test_open_hub_stays_open_while_the_database_is_away(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    authenticator = make(is_local=True)
    await authenticator.authenticate([])
    accounts_database.is_away = True
    clock.now_s += KEPT_S - 1
    assert await authenticator.authenticate([]) == Principal()
    clock.now_s += 1
    with pytest.raises(StorageUnavailableError):
        await authenticator.authenticate([])


async def test_known_keys_go_on_while_the_database_is_away_and_unknown_ones_wait(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    known, unseen = await make_key(accounts_database), await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(known))
    accounts_database.is_away = True
    for _ in range(3):
        clock.now_s += KEPT_S / 3 - 1
        assert (await authenticator.authenticate(bearer(known))).key_id == known.key_id
        with pytest.raises(StorageUnavailableError):
            await authenticator.authenticate(bearer(unseen))
        assert await code_of(authenticator, []) == "missing_api_key"
    clock.now_s += 3
    with pytest.raises(StorageUnavailableError):
        await authenticator.authenticate(bearer(known))
    accounts_database.is_away = False
    clock.now_s += FRESH_S
    for key in (known, unseen):
        assert (await authenticator.authenticate(bearer(key))).key_id == key.key_id


async def test_callers_with_known_keys_wait_for_a_frozen_database_once(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    key = await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(key))
    accounts_database.is_away = True
    clock.now_s += FRESH_S
    await authenticator.authenticate(bearer(key))  # learns that it is away
    accounts_database.gate.clear()
    for _ in range(5):
        clock.now_s += FRESH_S
        await asyncio.wait_for(authenticator.authenticate(bearer(key)), 1)


async def test_key_revoked_during_an_outage_is_refused_soon_after(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    key = await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(key))
    accounts_database.is_away = True
    clock.now_s += FRESH_S
    await authenticator.authenticate(bearer(key))
    await ApiKeyTable(accounts_database).revoke(key.key_id)
    accounts_database.is_away = False
    clock.now_s += recent_keys._AWAY_PAUSE_S
    await authenticator.authenticate(bearer(key))  # asks in the background
    await settled(authenticator)
    assert await code_of(authenticator, bearer(key)) == "revoked_api_key"


async def test_flood_of_invented_keys_is_bounded_and_pushes_no_known_key_out(
    accounts_database: CountedDatabase, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_keys, "MOST_KEYS", 50)
    known = await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(known))
    for _ in range(3):
        invented = [ApiKey.generate() for _ in range(40)]
        await asyncio.gather(*(authenticator.authenticate(bearer(key)) for key in invented), return_exceptions=True)
    assert len(authenticator._recent._unknown._values) == 50
    before = accounts_database.questions
    await authenticator.authenticate(bearer(known))
    assert accounts_database.questions == before


async def test_more_waiting_keys_than_the_bound_are_told_to_come_again(
    accounts_database: CountedDatabase, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent_keys, "MOST_WAITING", 3)
    authenticator = make()
    accounts_database.gate.clear()
    asked = [asyncio.create_task(authenticator.authenticate(bearer(ApiKey.generate()))) for _ in range(5)]
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=1)
    assert {type(task.exception()) for task in done} == {OverloadedError}
    accounts_database.gate.set()
    kinds = [type(result) for result in await asyncio.gather(*asked, return_exceptions=True)]
    assert (kinds.count(AuthenticationError), kinds.count(OverloadedError)) == (3, 2)


async def test_last_use_is_written_in_the_background_and_once_a_minute(
    accounts_database: CountedDatabase, make: Make, clock: Clock
) -> None:
    key = await make_key(accounts_database)
    table, authenticator = ApiKeyTable(accounts_database), make()
    assert (await table.get(key.key_id)).last_used_at is None
    await authenticator.authenticate(bearer(key))
    await asyncio.wait_for(authenticator._uses._work or asyncio.sleep(0), 5)
    assert abs(((await table.get(key.key_id)).last_used_at or 0) - time.time()) < 10
    work = authenticator._uses._work
    clock.now_s += 59
    await authenticator.authenticate(bearer(key))
    assert authenticator._uses._work is work
    clock.now_s += 1
    await authenticator.authenticate(bearer(key))
    assert authenticator._uses._work is not work


async def test_last_use_that_was_not_written_yet_is_written_on_closing(accounts_database: CountedDatabase, make: Make) -> None:
    key = await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(key))
    await authenticator.close()
    assert (await ApiKeyTable(accounts_database).get(key.key_id)).last_used_at is not None


async def test_last_use_that_cannot_be_written_harms_nobody(
    accounts_database: CountedDatabase, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    key = await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(key))
    accounts_database.is_away = True
    await authenticator.close()
    assert "last use" in caplog.text
    assert key.text not in caplog.text


async def test_secret_is_in_no_log_no_error_and_no_repr(
    accounts_database: CountedDatabase, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    known = await make_key(accounts_database)
    authenticator = make()
    principal = await authenticator.authenticate(bearer(known))
    wrong = known.text[:-1] + ("A" if known.text[-1] != "A" else "B")
    told = [repr(principal), repr(await authenticator._recent.find(known.prefix))]
    for authorization in ([f"Bearer {wrong}"], [f"Basic {known.text}"], bearer(known) * 2):
        with pytest.raises(AuthenticationError) as caught:
            await authenticator.authenticate(authorization)
        told += [repr(caught.value), str(caught.value.to_openai())]
    shown = " ".join([*told, caplog.text])
    assert known.text[15:-1] not in shown
    assert known.digest().hex() not in shown
    assert repr(known.digest()) not in shown


async def test_keys_outlive_a_restart_of_postgresql(
    accounts_database: CountedDatabase, make: Make, clock: Clock, external_postgres: ExternalPostgres
) -> None:
    known, unseen = await make_key(accounts_database), await make_key(accounts_database)
    authenticator = make()
    await authenticator.authenticate(bearer(known))
    external_postgres.crash()
    try:
        clock.now_s += FRESH_S
        assert (await authenticator.authenticate(bearer(known))).key_id == known.key_id
        with pytest.raises(StorageUnavailableError):
            await authenticator.authenticate(bearer(unseen))
    finally:
        external_postgres.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        clock.now_s += FRESH_S
        try:
            principal = await authenticator.authenticate(bearer(unseen))
        except StorageUnavailableError:
            await asyncio.sleep(0.1)
            continue
        break
    assert principal.key_id == unseen.key_id


async def test_check_of_a_known_key_takes_a_fraction_of_a_millisecond(accounts_database: CountedDatabase) -> None:
    key = await make_key(accounts_database)
    authenticator = KeyAuthenticator(accounts_database, is_local=True)
    await authenticator.authenticate(bearer(key))
    best_s = float("inf")
    for _ in range(20):
        started_s = time.perf_counter()
        for _ in range(100):
            await authenticator.authenticate(bearer(key))
        best_s = min(best_s, (time.perf_counter() - started_s) / 100)
    await authenticator.close()
    assert best_s < 0.0001


async def settled(authenticator: KeyAuthenticator) -> None:
    work = authenticator._recent._work
    if work is not None:
        await asyncio.wait({work}, timeout=5)


async def test_database_that_was_never_opened_is_an_error_for_everybody() -> None:
    authenticator = KeyAuthenticator(Database("postgresql://h/d"), is_local=True)
    for _ in range(2):
        with pytest.raises(Exception, match="not open|does not answer"):
            await authenticator.authenticate([])
    await authenticator.close()
