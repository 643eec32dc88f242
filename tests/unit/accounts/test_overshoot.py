"""However many requests run at once on several replicas: a key gets its limits, and what answers exceed their estimates by."""

import asyncio
import random

import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import RateLimitError
from tests.unit.accounts.limit_parts import caller, limiter


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(50, 2000), st.integers(0, 100))
def test_tokens_used_exceed_the_limit_by_no_more_than_answers_exceed_their_estimates(
    embedded_stores: StoreUrls, seed: int, most: int, percent_longer: int
) -> None:
    chance = random.Random(seed)  # noqa: S311  # sizes of requests
    asking = caller(tokens_per_minute=most, tokens_per_day=most, streams=7)

    async def scenario() -> None:
        used = excess = inside = streaming = refused = 0
        async with limiter(embedded_stores.redis_url) as one, limiter(embedded_stores.redis_url) as other:

            async def ask() -> None:
                nonlocal used, excess, inside, streaming, refused
                tokens, is_stream = chance.randint(1, max(1, most // 4)), chance.random() < 0.5
                comes_to = chance.randint(0, tokens * (100 + percent_longer) // 100)
                try:
                    taken = await chance.choice((one, other)).reserve(asking, tokens=tokens, is_stream=is_stream)
                except RateLimitError:
                    refused += 1
                    return
                # At most what the limit is was reserved when this was let in, whatever runs beside it.
                inside += taken.tokens
                assert used + inside <= most + excess
                streaming += is_stream
                assert streaming <= 7
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                inside -= taken.tokens
                streaming -= is_stream
                used += comes_to
                excess += max(0, comes_to - tokens)
                taken.settle(comes_to)

            await asyncio.gather(*(ask() for _ in range(60)))
            await asyncio.gather(*one._tasks, *other._tasks)
            assert used <= most + excess
            async with redis.asyncio.Redis.from_url(embedded_stores.redis_url) as client:
                name = f"aihub:limits:{{{asking.key_id}}}"
                assert int(await client.get(f"{name}:tokens") or 0) == used
                assert int(await client.get(f"{name}:day") or 0) == used
                assert await client.zcard(f"{name}:streams") == 0
        assert used or refused

    asyncio.run(scenario())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(1, 80))
def test_no_more_requests_are_let_in_than_the_limit_however_many_come_at_once(
    embedded_stores: StoreUrls, most: int, asked: int
) -> None:
    asking = caller(requests_per_minute=most)

    async def scenario() -> None:
        async with limiter(embedded_stores.redis_url) as one, limiter(embedded_stores.redis_url) as other:
            replicas = [one if number % 2 else other for number in range(asked)]
            results = await asyncio.gather(*(replica.admit(asking) for replica in replicas), return_exceptions=True)
        assert results.count(None) == min(most, asked)

    asyncio.run(scenario())
