"""Limits of keys on a real Redis: what is counted, refused and told."""

import asyncio
import math
import time

import pytest
import redis.asyncio
from prometheus_client import CollectorRegistry

from aihub.accounts import rate_limits
from aihub.accounts.metrics import LimitMetrics
from aihub.accounts.rate_limits import RateLimits
from aihub.accounts.settings import LimitSettings
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import RateLimitError, StorageUnavailableError
from aihub.core.principal import KeyLimits, Principal
from tests.unit.accounts.limit_parts import answer_headers, caller, limiter


async def settled(limits: RateLimits) -> None:
    await asyncio.gather(*limits._tasks)


async def test_requests_beyond_the_limit_are_refused_until_the_first_is_a_minute_old(embedded_stores: StoreUrls) -> None:
    asking = caller(requests_per_minute=3)
    async with limiter(embedded_stores.redis_url) as limits:
        for left in (2, 1, 0):
            with answer_headers() as headers:
                await limits.admit(asking)
            assert headers["x-ratelimit-limit-requests"] == "3"
            assert headers["x-ratelimit-remaining-requests"] == str(left)
            assert headers["x-ratelimit-reset-requests"] == "1m0s"
            await asyncio.sleep(0.6)
        with answer_headers() as headers, pytest.raises(RateLimitError) as refused:
            await limits.admit(asking)
        assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
        assert refused.value.retry_after_s == 59  # the first was 1.8 s ago
        assert headers["x-ratelimit-remaining-requests"] == "0"
        await limits.admit(caller(requests_per_minute=3))  # another key


async def test_retry_after_is_neither_early_nor_a_second_late(embedded_stores: StoreUrls) -> None:
    """A past request is written as the library writes it; it is in the way for 60 s, however slow the machine is."""
    asking = caller(requests_per_minute=1)
    async with limiter(embedded_stores.redis_url) as limits, redis.asyncio.Redis.from_url(embedded_stores.redis_url) as client:
        asked_s = time.time() - 55.5
        await client.lpush(f"aihub:limits:{{{asking.key_id}}}:requests", asked_s)
        waits_s: list[float] = []
        while True:
            before_s = asked_s + 60 - time.time()
            try:
                await limits.admit(asking)
            except RateLimitError as refused:
                after_s = asked_s + 60 - time.time()
                assert refused.retry_after_s is not None
                assert math.ceil(after_s) <= refused.retry_after_s <= math.ceil(before_s)
                waits_s.append(refused.retry_after_s)
                await asyncio.sleep(0.25)
            else:
                break
        assert asked_s + 60 - time.time() < 0 < len(waits_s)


async def test_replicas_count_together(embedded_stores: StoreUrls) -> None:
    asking = caller(requests_per_minute=10)
    async with limiter(embedded_stores.redis_url) as one, limiter(embedded_stores.redis_url) as other:
        results = await asyncio.gather(
            *(replica.admit(asking) for replica in (one, other) for _ in range(20)), return_exceptions=True
        )
    assert results.count(None) == 10
    assert sum(isinstance(result, RateLimitError) for result in results) == 30


async def test_who_has_no_key_or_no_limits_is_not_counted(embedded_stores: StoreUrls) -> None:
    async with limiter(embedded_stores.redis_url, LimitSettings(requests_per_minute=1)) as limits:
        for _ in range(3):
            with answer_headers() as headers:
                await limits.admit(Principal())
            assert headers == {}
    async with limiter("redis://127.0.0.1:1/0") as limits:  # nobody is asked
        await limits.admit(caller())
        (await limits.reserve(caller(), tokens=10, is_stream=True)).settle(10)
        assert not limits.limits_tokens(caller(requests_per_minute=1))


async def test_a_key_without_own_limits_has_those_of_the_settings(
    embedded_stores: StoreUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIHUB_DEFAULT_REQUESTS_PER_MINUTE", "1")
    monkeypatch.setenv("AIHUB_DEFAULT_STREAMS", "3")
    settings = LimitSettings()
    assert settings.limits_of(KeyLimits(streams=5)) == KeyLimits(requests_per_minute=1, streams=5)
    async with limiter(embedded_stores.redis_url, settings) as limits:
        plain, generous = caller(), caller(requests_per_minute=2)
        await limits.admit(plain)
        with pytest.raises(RateLimitError):
            await limits.admit(plain)
        await limits.admit(generous)
        await limits.admit(generous)


async def test_tokens_are_reserved_and_corrected_by_what_was_used(embedded_stores: StoreUrls) -> None:
    asking = caller(tokens_per_minute=1000)
    async with limiter(embedded_stores.redis_url) as limits:
        with answer_headers() as headers:
            first = await limits.reserve(asking, tokens=600)
        assert headers["x-ratelimit-limit-tokens"] == "1000"
        assert headers["x-ratelimit-remaining-tokens"] == "400"
        with pytest.raises(RateLimitError) as refused:
            await limits.reserve(asking, tokens=500)
        assert refused.value.code == "rate_limit_exceeded"
        first.settle(100)
        await settled(limits)
        second = await limits.reserve(asking, tokens=500)
        second.settle(700)  # more than it said
        second.settle(0)  # once is enough
        await settled(limits)
        with answer_headers() as headers, pytest.raises(RateLimitError):
            await limits.reserve(asking, tokens=201)
        assert headers["x-ratelimit-remaining-tokens"] == "200"


async def test_tokens_wait_until_enough_of_the_minute_before_has_faded(embedded_stores: StoreUrls) -> None:
    """900 of the minute before, of which 10 s are over: 750 count still, and 300 more fit once 700 do."""
    asking = caller(tokens_per_minute=1000)
    name = f"aihub:limits:{{{asking.key_id}}}"
    async with limiter(embedded_stores.redis_url) as limits, redis.asyncio.Redis.from_url(embedded_stores.redis_url) as client:
        await client.set(f"{name}:tokens-before", 900, px=50_000)
        await client.set(f"{name}:tokens", 0, px=110_000)
        with answer_headers() as headers, pytest.raises(RateLimitError) as refused:
            await limits.reserve(asking, tokens=300)
        assert headers["x-ratelimit-remaining-tokens"] in {"250", "251"}
        assert refused.value.retry_after_s == 4
        await client.pexpire(f"{name}:tokens-before", 50_000 - 3_400)  # just before 700
        await client.pexpire(f"{name}:tokens", 110_000 - 3_400)
        (await limits.reserve(asking, tokens=300)).settle(300)


async def test_what_was_reserved_in_the_minute_before_is_given_back_there(embedded_stores: StoreUrls) -> None:
    asking = caller(tokens_per_minute=1000)
    name = f"aihub:limits:{{{asking.key_id}}}"
    async with limiter(embedded_stores.redis_url) as limits, redis.asyncio.Redis.from_url(embedded_stores.redis_url) as client:
        taken = await limits.reserve(asking, tokens=800)
        assert isinstance(taken, rate_limits._Taken)
        await client.pexpire(f"{name}:tokens", 59_000)  # a minute and a second have gone by
        taken.at_s -= 60.9
        (await limits.reserve(asking, tokens=100)).settle(100)
        taken.settle(50)
        await settled(limits)
        assert int(await client.get(f"{name}:tokens-before")) == 50
        assert int(await client.get(f"{name}:tokens")) == 100


async def test_a_request_that_can_never_fit_says_so_and_is_not_to_be_sent_again(embedded_stores: StoreUrls) -> None:
    asking = caller(tokens_per_minute=100)
    async with limiter(embedded_stores.redis_url) as limits:
        with answer_headers() as headers, pytest.raises(RateLimitError, match="max_completion_tokens") as refused:
            await limits.reserve(asking, tokens=101)
        assert refused.value.retry_after_s is None
        assert headers["x-should-retry"] == "false"
        # One that does not say how long an answer it wants gets the whole minute.
        assert (await limits.reserve(asking, tokens=20, most_tokens=1020)).tokens == 100


async def test_the_days_tokens_are_a_quota(embedded_stores: StoreUrls) -> None:
    asking = caller(tokens_per_day=1000)
    async with limiter(embedded_stores.redis_url) as limits:
        (await limits.reserve(asking, tokens=900)).settle(950)
        await settled(limits)
        with pytest.raises(RateLimitError, match="50 of this API key's 1000") as refused:
            await limits.reserve(asking, tokens=60)
        assert (refused.value.status, refused.value.code) == (429, "insufficient_quota")
        assert refused.value.retry_after_s is not None
        assert abs(refused.value.retry_after_s - (86_400 - time.time() % 86_400)) <= 2
        (await limits.reserve(asking, tokens=50)).settle(50)
        await settled(limits)
        async with redis.asyncio.Redis.from_url(embedded_stores.redis_url) as client:
            name = f"aihub:limits:{{{asking.key_id}}}:day"
            assert abs((time.time() + await client.ttl(name)) % 86_400 - 43_200) > 43_190  # it ends with the day
            assert int(await client.get(name)) == 1000


async def test_a_reservation_of_yesterday_is_not_given_back_today(embedded_stores: StoreUrls) -> None:
    asking = caller(tokens_per_day=1000)
    async with limiter(embedded_stores.redis_url) as limits, redis.asyncio.Redis.from_url(embedded_stores.redis_url) as client:
        taken = await limits.reserve(asking, tokens=300)
        assert isinstance(taken, rate_limits._Taken)
        taken.at_s -= 86_400
        taken.settle(100)
        await settled(limits)
        assert int(await client.get(f"aihub:limits:{{{asking.key_id}}}:day")) == 300


async def test_streams_are_held_until_they_are_settled(embedded_stores: StoreUrls) -> None:
    asking = caller(streams=2)
    async with limiter(embedded_stores.redis_url) as one, limiter(embedded_stores.redis_url) as other:
        first = await one.reserve(asking, is_stream=True)
        await other.reserve(asking, is_stream=True)
        with pytest.raises(RateLimitError) as refused:
            await one.reserve(asking, is_stream=True)
        assert (refused.value.code, refused.value.retry_after_s) == ("rate_limit_exceeded", 1)
        first.settle(0)
        await settled(one)
        await other.reserve(asking, is_stream=True)


async def test_streams_of_a_replica_that_died_are_free_after_their_lease(
    embedded_stores: StoreUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aihub.accounts.redis_limits.LEASE_S", 0.6)
    monkeypatch.setattr(rate_limits, "_RENEW_S", 0.2)
    asking = caller(streams=1)
    async with limiter(embedded_stores.redis_url) as living, limiter(embedded_stores.redis_url) as dying:
        await dying.reserve(asking, is_stream=True)
        await asyncio.sleep(1.0)
        with pytest.raises(RateLimitError):  # renewed as long as its replica lives
            await living.reserve(asking, is_stream=True)
        assert dying._renewing is not None
        dying._renewing.cancel()
        await asyncio.sleep(0.9)
        await living.reserve(asking, is_stream=True)


async def test_leases_are_renewed_only_while_streams_are_open(
    embedded_stores: StoreUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "_RENEW_S", 0.05)
    asking = caller(streams=1)
    async with limiter(embedded_stores.redis_url) as limits:
        assert limits._renewing is None
        taken = await limits.reserve(asking, is_stream=True)
        await asyncio.sleep(0.2)
        assert limits._renewing is not None
        assert not limits._renewing.done()
        taken.settle(0)
        await asyncio.sleep(0.2)
        assert limits._renewing.done()
        again = await limits.reserve(asking, is_stream=True)
        assert not limits._renewing.done()
        again.settle(0)


async def test_a_caller_cancelled_while_it_reserves_keeps_nothing(embedded_stores: StoreUrls) -> None:
    asking = caller(streams=1, tokens_per_minute=100)
    async with limiter(embedded_stores.redis_url) as limits:
        for steps in range(12):
            task = asyncio.create_task(limits.reserve(asking, tokens=100, is_stream=True))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            if not isinstance(results[0], BaseException):
                results[0].settle(0)
            await settled(limits)
        (await limits.reserve(asking, tokens=100, is_stream=True)).settle(0)


async def test_one_request_is_one_round_trip_and_quick(embedded_stores: StoreUrls) -> None:
    asking = caller(requests_per_minute=100_000, tokens_per_minute=10**9, tokens_per_day=10**9)
    async with limiter(embedded_stores.redis_url) as limits, redis.asyncio.Redis.from_url(embedded_stores.redis_url) as client:
        await limits.admit(asking)  # the first teaches Redis the script
        (await limits.reserve(asking, tokens=5)).settle(5)
        await settled(limits)
        before = (await client.info("commandstats"))["cmdstat_evalsha"]["calls"]
        times_s = []
        for _ in range(200):
            started_s = time.perf_counter()
            await limits.admit(asking)
            times_s.append(time.perf_counter() - started_s)
        assert (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] - before == 200
        assert sorted(times_s)[100] < 0.003


async def test_refusals_are_counted_by_reason(embedded_stores: StoreUrls) -> None:
    registry = CollectorRegistry()
    async with limiter(embedded_stores.redis_url, registry=registry) as limits:
        asking = caller(requests_per_minute=1, tokens_per_minute=10, streams=1)
        await limits.admit(asking)
        await limits.reserve(asking, tokens=10, is_stream=True)
        for work in (limits.admit(asking), limits.reserve(asking, tokens=1), limits.reserve(asking, tokens=11)):
            with pytest.raises(RateLimitError):
                await work
        with pytest.raises(RateLimitError):
            await limits.reserve(asking, is_stream=True)
        spent = caller(tokens_per_day=5)
        await limits.reserve(spent, tokens=5)
        with pytest.raises(RateLimitError):
            await limits.reserve(spent, tokens=1)
    for reason in ("requests", "tokens", "too_large", "streams", "day"):
        assert registry.get_sample_value("aihub_limits_refused_total", {"reason": reason}) == 1


async def test_redis_that_has_forgotten_the_day_is_told_once_what_a_key_has_used(embedded_stores: StoreUrls) -> None:
    asking = caller(tokens_per_day=1000)
    asked: list[str] = []

    async def used_today(key_id: str) -> int:
        asked.append(key_id)
        return 700

    replicas = [
        RateLimits(embedded_stores.redis_url, LimitSettings(), LimitMetrics(CollectorRegistry()), used_today=used_today)
        for _ in range(2)
    ]
    try:
        for replica in replicas:
            (await replica.reserve(asking, tokens=100)).settle(0)
            await settled(replica)
        assert asked == [asking.key_id] * len(asked)
        with pytest.raises(RateLimitError) as refused:
            await replicas[1].reserve(asking, tokens=400)
        assert refused.value.code == "insufficient_quota"
        await replicas[0].reserve(asking, tokens=300)
    finally:
        await asyncio.gather(*(replica.close() for replica in replicas))


async def test_key_is_let_in_where_nobody_knows_what_it_has_used(embedded_stores: StoreUrls) -> None:
    async def used_today(_key_id: str) -> int:
        raise StorageUnavailableError("away")

    limits = RateLimits(embedded_stores.redis_url, LimitSettings(), LimitMetrics(CollectorRegistry()), used_today=used_today)
    try:
        await limits.reserve(caller(tokens_per_day=1000), tokens=100)
        await settled(limits)
    finally:
        await limits.close()
