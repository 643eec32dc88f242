import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from aihub.core.cache import Cache
from aihub.core.embedded.stores import StoreUrls
from tests.external_servers import ExternalRedis


@pytest.fixture
async def cache(embedded_stores: StoreUrls) -> AsyncIterator[Cache]:
    opened = Cache(embedded_stores.redis_url)
    yield opened
    await opened.close()


@pytest.fixture
def redis_server() -> Iterator[ExternalRedis]:
    server = ExternalRedis()
    try:
        server.start()
        yield server
    finally:
        server.remove()


async def answers_again(cache: Cache) -> bool:
    for _ in range(60):
        await cache.set("b", b"2", 60)
        if await cache.get("b") == b"2":
            return True
        await asyncio.sleep(0.1)
    return False


async def test_value_is_kept_until_it_expires_or_is_deleted(cache: Cache) -> None:
    await cache.set("tạm", b"\x00\xff", 60)
    assert await cache.get("tạm") == b"\x00\xff"
    await cache.delete("tạm")
    assert await cache.get("tạm") is None
    await cache.set("ngắn", b"1", 0.05)
    await asyncio.sleep(0.1)
    assert await cache.get("ngắn") is None
    assert (await cache.check()).status == "ok"


async def test_values_whose_keys_begin_so_are_forgotten_and_no_others(cache: Cache) -> None:
    mine = [f"mine:a*[b]?:{number}" for number in range(2500)]
    others = ["mine:a*[b]", "mine:axb?:1", "mine:aab!:1", "yours:mine:a*[b]?:1"]
    for key in [*mine, *others]:
        await cache.set(key, b"1", 60)
    assert await cache.delete_prefix("mine:a*[b]?:")
    assert {await cache.get(key) for key in mine} == {None}
    assert [await cache.get(key) for key in others] == [b"1"] * len(others)
    assert await cache.delete_prefix("mine:a*[b]?:")


async def test_prefix_is_not_forgotten_where_redis_does_not_answer() -> None:
    cache = Cache("redis://127.0.0.1:1/0")
    assert not await cache.delete_prefix("mine:")
    await cache.close()


async def test_without_redis_everything_is_a_miss() -> None:
    cache = Cache(None)
    await cache.set("a", b"1", 60)
    assert await cache.get("a") is None
    await cache.delete("a")
    assert await cache.delete_prefix("a")
    assert (await cache.check()).status == "degraded"
    await cache.close()


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_lost_redis_is_a_quick_miss_told_once_and_comes_back_by_itself(
    redis_server: ExternalRedis, caplog: pytest.LogCaptureFixture, fault: signal.Signals
) -> None:
    cache = Cache(redis_server.url)
    await cache.set("a", b"1", 60)
    assert await cache.get("a") == b"1"
    redis_server.send(fault)
    with caplog.at_level(logging.WARNING, logger="aihub.core.cache"):
        for _ in range(5):
            started = time.monotonic()
            assert await cache.get("a") is None
            await cache.set("a", b"1", 60)
            assert time.monotonic() - started < 0.4
            await asyncio.sleep(0.3)
    health = await cache.check()
    assert health.status == "degraded"
    assert health.reason is not None
    assert [record.message for record in caplog.records].count(health.reason + "; going on without a cache") <= 1
    assert len(caplog.records) == 1
    if fault == signal.SIGSTOP:
        redis_server.send(signal.SIGCONT)
    else:
        redis_server.start()
    assert await answers_again(cache)
    assert (await cache.check()).status == "ok"
    await cache.close()


async def test_redis_restarted_between_two_calls_costs_nothing(redis_server: ExternalRedis) -> None:
    cache = Cache(redis_server.url)
    await cache.set("a", b"1", 60)
    redis_server.send(signal.SIGTERM)
    redis_server.start()
    await cache.set("a", b"2", 60)
    assert await cache.get("a") == b"2"
    await cache.close()


async def test_wrong_password_is_a_miss_with_a_reason(redis_server: ExternalRedis) -> None:
    cache = Cache(redis_server.url.replace("secret", "wrong"))
    assert await cache.get("a") is None
    health = await cache.check()
    assert health.status == "degraded"
    assert "wrong" not in (health.reason or "")
    await cache.close()
