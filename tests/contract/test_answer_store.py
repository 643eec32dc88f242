"""One suite for the stores of answers: the fake, and Redis by a server of its own."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio

from aihub.cache import fake, service
from aihub.cache import store as redis_store
from aihub.cache.fake import FakeAnswerStore
from aihub.cache.service import AnswerStore
from aihub.cache.settings import CacheSettings
from aihub.cache.store import PREFIX, RedisAnswerStore
from aihub.core.cache import Cache
from tests.external_servers import ExternalRedis

SETTINGS = CacheSettings(mb=1, entry_kb=64)
PIECES = ('data: {"choices":[{"delta":{"content":"Phở 🍜"}}]}\n\n', "data: [DONE]\n\n")


@pytest.fixture(scope="module")
def redis_server() -> Iterator[ExternalRedis]:
    server = ExternalRedis()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
async def client(redis_server: ExternalRedis) -> AsyncIterator[redis.asyncio.Redis]:
    opened = redis.asyncio.Redis.from_url(redis_server.url)
    yield opened
    await opened.flushall()
    await opened.aclose()


@pytest.fixture(params=["fake", "redis"])
async def store(
    request: pytest.FixtureRequest, redis_server: ExternalRedis, client: redis.asyncio.Redis
) -> AsyncIterator[AnswerStore]:
    if request.param == "fake":
        yield FakeAnswerStore(SETTINGS)
        return
    cache = Cache(redis_server.url)
    yield RedisAnswerStore(cache, SETTINGS)
    await cache.close()


def key(name: str = "a") -> str:
    return hashlib.sha256(name.encode()).hexdigest()


async def kept(store: AnswerStore, name: str, pieces: tuple[str, ...] = PIECES, **options: float) -> None:
    token = secrets.token_hex(8)
    assert (await store.look_up(key(name), token)).state == "leader"
    await store.put(key(name), token, pieces, options.get("ttl_s", 60.0))


async def test_the_first_who_asks_leads_the_others_wait_and_all_get_the_same_pieces(store: AnswerStore) -> None:
    states = [(await store.look_up(key(), f"token-{number}")).state for number in range(3)]
    assert states == ["leader", "held", "held"]
    await store.put(key(), "token-0", PIECES, 60.0)
    found = await store.look_up(key(), "token-3")
    assert (found.state, found.pieces) == ("hit", PIECES)
    assert (await store.look_up(key("b"), "token-4")).state == "leader"


async def test_a_hundred_who_ask_at_once_have_one_leader(store: AnswerStore) -> None:
    found = await asyncio.gather(*(store.look_up(key(), f"token-{number}") for number in range(100)))
    assert sorted(lookup.state for lookup in found) == ["held"] * 99 + ["leader"]


async def test_the_answer_given_first_stays_unless_it_is_replaced(store: AnswerStore) -> None:
    await kept(store, "a")
    await store.put(key(), "late", ("other",), 60.0)
    assert (await store.look_up(key(), "x")).pieces == PIECES
    await store.put(key(), "late", ("other",), 60.0, replaces=True)
    assert (await store.look_up(key(), "x")).pieces == ("other",)


async def test_an_answer_ends_with_its_time(store: AnswerStore) -> None:
    await kept(store, "a", ttl_s=0.05)
    await asyncio.sleep(0.1)
    assert (await store.look_up(key(), "x")).state == "leader"


async def test_a_lease_that_is_given_back_goes_to_the_next(store: AnswerStore) -> None:
    assert (await store.look_up(key(), "a")).state == "leader"
    await store.release(key(), "stranger")
    assert (await store.look_up(key(), "b")).state == "held"
    await store.release(key(), "a")
    assert (await store.look_up(key(), "b")).state == "leader"


async def test_a_leader_that_died_is_followed_by_another_when_its_lease_ends(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "LEASE_S", 0.2)
    monkeypatch.setattr(redis_store, "LEASE_S", 0.2)
    assert (await store.look_up(key(), "dies")).state == "leader"
    await asyncio.sleep(0.12)
    await store.renew(key(), "dies")
    await asyncio.sleep(0.12)
    assert (await store.look_up(key(), "b")).state == "held"
    await asyncio.sleep(0.15)
    await store.renew(key(), "dies")
    assert (await store.look_up(key(), "b")).state == "leader"
    assert service.RENEW_S * 3 < service.LEASE_S


async def test_a_long_answer_is_not_kept_and_nobody_waits_for_it(store: AnswerStore) -> None:
    assert (await store.look_up(key(), "a")).state == "leader"
    await store.put(key(), "a", ("x" * 70_000,), 60.0)
    assert [(await store.look_up(key(), name)).state for name in "bc"] == ["not_kept", "not_kept"]


async def test_answers_unused_for_longest_make_room(store: AnswerStore) -> None:
    for number in range(40):
        await kept(store, f"answer {number}", ("x" * 50_000,))
        await asyncio.sleep(0.002)
        assert (await store.look_up(key("answer 0"), "x")).state == "hit"
        await asyncio.sleep(0.002)
    states = {number: (await store.look_up(key(f"answer {number}"), "x")).state for number in range(40)}
    found = [number for number, state in states.items() if state == "hit"]
    assert found == [0, *range(22, 40)] or found == [0, *range(21, 40)]


@pytest.mark.parametrize(
    "damage", [b"", b"\x00", b"\x02rest", b"not ours", b"\x01" + bytes(16) + b'["x"]', "moved", "list", "cut"]
)
async def test_what_is_damaged_or_foreign_in_redis_is_a_miss(
    redis_server: ExternalRedis, client: redis.asyncio.Redis, damage: bytes | str
) -> None:
    cache = Cache(redis_server.url)
    store = RedisAnswerStore(cache, SETTINGS)
    await kept(store, "a")
    await kept(store, "b", ("another answer",))
    place, other = f"{PREFIX}answer:{key()}", f"{PREFIX}answer:{key('b')}"
    good = await client.get(other)
    assert good is not None
    if damage == "list":
        await client.delete(place)
        await client.rpush(place, "x")
    else:
        own = await client.get(place)
        assert own is not None
        await client.set(place, good if damage == "moved" else own[:-1] if damage == "cut" else damage)
    assert (await store.look_up(key(), "x")).state == "leader"
    await store.put(key(), "x", ("made anew",), 60.0)
    assert (await store.look_up(key(), "y")).pieces == ("made anew",)
    assert (await store.look_up(key("b"), "y")).state == "hit"
    await cache.close()


async def test_the_bound_holds_when_redis_has_thrown_the_index_away(
    redis_server: ExternalRedis, client: redis.asyncio.Redis
) -> None:
    cache = Cache(redis_server.url)
    store = RedisAnswerStore(cache, SETTINGS)
    for lost in ("order", "sizes"):
        for number in range(15):
            await kept(store, f"{lost} {number}", ("x" * 50_000,))
        await client.delete(PREFIX + lost)
        for number in range(15, 30):
            await kept(store, f"{lost} {number}", ("x" * 50_000,))
        sizes = [await client.strlen(name) async for name in client.scan_iter(f"{PREFIX}answer:*")]
        assert sum(sizes) <= SETTINGS.max_bytes
        assert sizes
    await cache.close()


async def test_a_lost_redis_is_unavailable_at_once_and_no_error() -> None:
    store = RedisAnswerStore(Cache("redis://127.0.0.1:1/0"), SETTINGS)
    assert (await store.look_up(key(), "a")).state == "unavailable"
    await store.renew(key(), "a")
    await store.put(key(), "a", PIECES, 60.0)
    await store.release(key(), "a")
