"""The cached chat of several replicas over one real Redis, which may die at any moment."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from aihub.cache.settings import CacheSettings
from aihub.cache.store import RedisAnswerStore
from aihub.chat.fake import FakeChatEngine
from aihub.core.cache import Cache
from aihub.core.metrics import Metrics
from pipelines.cached_chat import CachedChat
from tests.external_servers import ExternalRedis
from tests.unit.pipelines.rag_parts import CALLER, hub, request, transcript


@pytest.fixture
def redis_server() -> Iterator[ExternalRedis]:
    server = ExternalRedis()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def engine() -> FakeChatEngine:
    return FakeChatEngine(first_token_s=0.1, token_s=0.01)


@pytest.fixture
async def replicas(redis_server: ExternalRedis, engine: FakeChatEngine) -> AsyncIterator[list[CachedChat]]:
    """Three, each with its own connection."""
    chat = hub(engine=engine).chat
    caches = [Cache(redis_server.url) for _ in range(3)]
    stores = [RedisAnswerStore(cache, CacheSettings()) for cache in caches]
    yield [CachedChat(chat, chat, store, ttl_s=60.0, metrics=Metrics()) for store in stores]
    await asyncio.gather(*(cache.close() for cache in caches))


async def ask(chat: CachedChat, *, is_streamed: bool) -> str:
    asked = request("Xin chào", temperature=0.0, stream=is_streamed)
    if is_streamed:
        return await transcript(await chat.open_chat_stream(CALLER, asked))
    return json.dumps(await chat.chat(CALLER, asked))


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
async def test_a_hundred_at_once_on_three_replicas_ask_the_engine_once(
    replicas: list[CachedChat],
    engine: FakeChatEngine,
    is_streamed: bool,  # a parameter of the test
) -> None:
    answers = await asyncio.gather(*(ask(replicas[number % 3], is_streamed=is_streamed) for number in range(100)))
    assert len(set(answers)) == 1
    assert len(engine.bodies) == 1


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
async def test_a_redis_that_is_lost_while_many_wait_costs_no_answer(
    replicas: list[CachedChat], redis_server: ExternalRedis, fault: signal.Signals
) -> None:
    asking = [asyncio.create_task(ask(replicas[number % 3], is_streamed=False)) for number in range(30)]
    await asyncio.sleep(0.05)
    redis_server.send(fault)
    started_s = time.monotonic()
    assert len(await asyncio.gather(*asking)) == 30
    assert time.monotonic() - started_s < 2.0
    for _ in range(3):
        started_s = time.monotonic()
        await ask(replicas[0], is_streamed=True)
        assert time.monotonic() - started_s < 0.8
    if fault == signal.SIGSTOP:
        redis_server.send(signal.SIGCONT)
