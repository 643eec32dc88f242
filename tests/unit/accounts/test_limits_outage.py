"""Redis is killed under the limits, and comes back."""

import asyncio
import logging
import signal
import time

import pytest
from prometheus_client import CollectorRegistry

from aihub.accounts import rate_limits
from aihub.core.errors import RateLimitError
from tests.external_servers import ExternalRedis
from tests.unit.accounts.limit_parts import answer_headers, caller, limiter


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_without_redis_requests_go_on_by_the_same_numbers_and_with_it_they_are_counted_there_again(
    redis_server: ExternalRedis, caplog: pytest.LogCaptureFixture, fault: signal.Signals
) -> None:
    registry = CollectorRegistry()
    async with limiter(redis_server.url, registry=registry, timeout_s=0.25) as limits, limiter(redis_server.url) as other:
        asking = caller(requests_per_minute=5)
        await limits.admit(asking)
        redis_server.send(fault)
        with caplog.at_level(logging.WARNING, logger="aihub.accounts.rate_limits"):
            started_s = time.monotonic()
            with answer_headers() as headers:
                await limits.admit(asking)
            assert headers["x-ratelimit-remaining-requests"] == "4"
            for _ in range(4):
                await limits.admit(asking)
            with pytest.raises(RateLimitError) as refused:
                await limits.admit(asking)
            assert time.monotonic() - started_s < 0.6  # the timeout is waited for once
            assert refused.value.retry_after_s is not None
            assert 58 <= refused.value.retry_after_s <= 60
        assert len(caplog.records) == 1
        assert registry.get_sample_value("aihub_limits_redis_away") == 1
        if fault == signal.SIGSTOP:
            redis_server.send(signal.SIGCONT)
        else:
            redis_server.start()
        await asyncio.sleep(rate_limits._PAUSE_S + 0.1)
        later = caller(requests_per_minute=2)
        await limits.admit(later)
        await other.admit(later)
        with pytest.raises(RateLimitError):  # both replicas count together
            await limits.admit(later)
        assert registry.get_sample_value("aihub_limits_redis_away") == 0


async def test_without_redis_tokens_and_streams_are_bounded_and_budgets_of_a_day_are_not_counted(
    redis_server: ExternalRedis,
) -> None:
    redis_server.send(signal.SIGKILL)
    async with limiter(redis_server.url, timeout_s=0.25) as limits:
        asking = caller(tokens_per_minute=1000, tokens_per_day=100, streams=1)
        (await limits.reserve(asking, tokens=90)).settle(90)
        (await limits.reserve(asking, tokens=90)).settle(10)  # over the day's
        await asyncio.gather(*limits._tasks)
        with answer_headers() as headers:
            stream = await limits.reserve(asking, tokens=10, is_stream=True)
        assert headers["x-ratelimit-remaining-tokens"] == "890"
        with pytest.raises(RateLimitError, match="streams"):
            await limits.reserve(asking, is_stream=True)
        stream.settle(990)
        await asyncio.gather(*limits._tasks)
        with pytest.raises(RateLimitError, match="tokens a minute") as refused:
            await limits.reserve(asking, tokens=1)
        assert refused.value.code == "rate_limit_exceeded"
        (await limits.reserve(asking, is_stream=True)).settle(0)


async def test_streams_opened_while_redis_was_away_are_counted_once_it_is_back(
    redis_server: ExternalRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "_RENEW_S", 0.3)
    redis_server.send(signal.SIGKILL)
    asking = caller(streams=1)
    async with limiter(redis_server.url, timeout_s=0.25) as limits, limiter(redis_server.url) as other:
        stream = await limits.reserve(asking, is_stream=True)
        redis_server.start()
        await asyncio.sleep(1.0)
        with pytest.raises(RateLimitError):
            await other.reserve(asking, is_stream=True)
        stream.settle(0)
        await asyncio.gather(*limits._tasks)
        (await other.reserve(asking, is_stream=True)).settle(0)


async def test_streams_opened_before_redis_went_away_count_without_it(redis_server: ExternalRedis) -> None:
    asking = caller(streams=1)
    async with limiter(redis_server.url, timeout_s=0.25) as limits:
        await limits.reserve(asking, is_stream=True)
        redis_server.send(signal.SIGKILL)
        with pytest.raises(RateLimitError):
            await limits.reserve(asking, is_stream=True)


async def test_a_reservation_of_redis_is_settled_without_it_and_stays_counted(redis_server: ExternalRedis) -> None:
    asking = caller(tokens_per_minute=100)
    async with limiter(redis_server.url, timeout_s=0.25) as limits:
        taken = await limits.reserve(asking, tokens=60)
        redis_server.send(signal.SIGSTOP)
        taken.settle(1)
        await asyncio.gather(*limits._tasks)
        redis_server.send(signal.SIGCONT)
        await asyncio.sleep(rate_limits._PAUSE_S + 0.1)
        with pytest.raises(RateLimitError):
            await limits.reserve(asking, tokens=100)


async def test_where_no_redis_is_configured_each_replica_counts_alone() -> None:
    asking = caller(requests_per_minute=1)
    async with limiter(None) as limits:
        await limits.admit(asking)
        with pytest.raises(RateLimitError):
            await limits.admit(asking)
