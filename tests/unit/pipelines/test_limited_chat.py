"""Limits around a real chat pipeline with a fake engine; the limiter counts in memory or on a real Redis."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from aihub.accounts.metrics import LimitMetrics
from aihub.accounts.rate_limits import RateLimits
from aihub.accounts.settings import LimitSettings
from aihub.cache.fake import FakeAnswerStore
from aihub.chat.completions import CompletionRequest
from aihub.chat.fake import FakeChatEngine
from aihub.chat.history import EngineHistory, ObservedEngine
from aihub.chat.service import ChatEngine
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import HubError, OverloadedError, RateLimitError, UnavailableError
from aihub.core.fair_queue import QueueFullError
from aihub.core.metrics import Metrics
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord, current_record
from aihub.core.schemas import validate
from deployments.local_engine import LocalEngine
from pipelines.cached_chat import CachedChat
from pipelines.chat import ChatPipeline
from pipelines.fair_turn import ModelTurns
from pipelines.limited_chat import LimitedChat
from pipelines.load_wait import LoadWait
from pipelines.token_estimate import estimate
from tests.unit.accounts.limit_parts import answer_headers, caller
from tests.unit.pipelines.rag_parts import BATTERY, CALLER, OneModel, data_of, hub, request, transcript


class OneModelInTurns(OneModel):
    """A directory with a single engine, whose places are shared."""

    def __init__(self, engine: ChatEngine, turns: ModelTurns) -> None:
        super().__init__(engine)
        self._turns = turns

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        engine = await super().resolve(principal, model_id, body, wait=wait)
        await self._turns.take(model_id, wait)
        return engine


class NoCounts:
    def note_begin(self, model_id: str) -> None:
        """Count nothing."""

    def note_end(self, model_id: str) -> None:
        """Count nothing."""


class Setting:
    """A limited chat and what it is made of."""

    def __init__(
        self, *texts: str, places: int = 100, most_waiting: int = 1000, redis_url: str | None = None, **engine: Any
    ) -> None:
        self.registry = CollectorRegistry()
        metrics = LimitMetrics(self.registry)
        self.limits = RateLimits(redis_url, LimitSettings(), metrics, timeout_s=5.0)
        self.engine = FakeChatEngine(**engine)
        self.turns = ModelTurns(places, most_waiting, metrics.refused)
        parts = hub(*texts, engine=self.engine)
        self.directory = OneModelInTurns(self.engine, self.turns)
        self.pipeline = ChatPipeline(self.directory, parts.chat._rag, timeout_s=20.0)
        self.chat = LimitedChat(self.pipeline, self.limits, usual_answer_tokens=100)

    async def left(self, principal: Principal) -> int:
        """Tokens of this minute that the caller has left."""
        await asyncio.gather(*self.limits._tasks)
        with answer_headers() as headers:
            await self.limits.admit(principal)
        return int(headers["x-ratelimit-remaining-tokens"])

    def assert_idle(self) -> None:
        assert self.engine.active == 0
        assert all((queue.taken, queue.waiting) == (0, 0) for queue in self.turns._queues.values())


def completion(**fields: Any) -> CompletionRequest:
    return validate(CompletionRequest, {"model": "fake-chat", "prompt": "một hai ba", **fields})


async def test_an_answer_costs_what_the_engine_tells() -> None:
    parts, asking = Setting(), caller(tokens_per_minute=1000)
    answer = await parts.chat.chat(asking, request("Xin chào"))
    assert await parts.left(asking) == 1000 - answer["usage"]["total_tokens"]
    answer = await parts.chat.complete(asking, completion())
    assert await parts.left(asking) < 1000
    parts.assert_idle()


async def test_a_stream_costs_what_the_engine_tells_though_the_client_did_not_ask_for_it() -> None:
    parts, asking, record = Setting(), caller(tokens_per_minute=1000), RequestRecord()
    token = current_record.set(record)
    try:
        text = await transcript(await parts.chat.open_chat_stream(asking, request("Xin chào", stream=True)))
    finally:
        current_record.reset(token)
    plain = await transcript(await parts.pipeline.open_chat_stream(CALLER, request("Xin chào", stream=True)))
    assert [chunk["choices"] for chunk in data_of(text)] == [chunk["choices"] for chunk in data_of(plain)]
    assert "usage" not in text
    used = record.prompt_tokens + record.completion_tokens
    assert used > 4
    assert await parts.left(asking) == 1000 - used
    told = request("Xin chào", stream=True, stream_options={"include_usage": True})
    assert data_of(await transcript(await parts.chat.open_chat_stream(asking, told)))[-1]["usage"]["total_tokens"] == used
    text = await transcript(await parts.chat.open_complete_stream(asking, completion(stream=True)))
    assert text.endswith("data: [DONE]\n\n")
    assert "usage" not in text
    parts.assert_idle()


async def test_answers_with_sources_are_whole_in_streams_of_limited_keys() -> None:
    parts = Setting(BATTERY, answer=lambda _: "The Falcon X2 battery lasts 38 hours on one charge. [1]")
    asking = caller(tokens_per_minute=9000)
    text = await transcript(await parts.chat.open_chat_stream(asking, request(retrieval=True, stream=True)))
    assert '"annotations":[{' in text
    assert "usage" not in text
    assert await parts.left(asking) < 9000


async def test_nothing_is_asked_beyond_the_limit_and_the_engine_never_hears_of_it() -> None:
    parts, asking = Setting(), caller(tokens_per_minute=50)
    with pytest.raises(RateLimitError, match="max_completion_tokens"):
        await parts.chat.chat(asking, request("Xin chào", max_completion_tokens=80))
    first = await parts.chat.open_chat_stream(asking, request("Xin chào", max_completion_tokens=20, stream=True))
    with pytest.raises(RateLimitError, match="tokens a minute"):
        await parts.chat.open_chat_stream(asking, request("Xin chào", max_completion_tokens=20, stream=True))
    assert len(parts.engine.bodies) == 1
    await first.aclose()
    parts.assert_idle()


async def test_many_at_once_do_not_overshoot(embedded_stores: StoreUrls) -> None:
    """Prompts and answers are bounded by what was reserved, so the key never gets a token more."""
    parts, asking = Setting(redis_url=embedded_stores.redis_url, token_s=0.002, places=16), caller(tokens_per_minute=500)
    results = await asyncio.gather(
        *(parts.chat.chat(asking, request("một hai ba bốn năm", max_completion_tokens=30)) for _ in range(80)),
        return_exceptions=True,
    )
    answers = [result for result in results if isinstance(result, dict)]
    assert answers
    assert all(isinstance(result, dict | RateLimitError) for result in results)
    used = sum(answer["usage"]["total_tokens"] for answer in answers)
    assert used <= 500
    assert await parts.left(asking) == 500 - used
    await parts.limits.close()


async def test_a_failed_answer_costs_nothing() -> None:
    parts, asking = Setting(), caller(tokens_per_minute=1000)
    parts.engine.error = UnavailableError("down")
    for work in (
        parts.chat.chat(asking, request()),
        parts.chat.open_chat_stream(asking, request(stream=True)),
        parts.chat.complete(asking, completion()),
        parts.chat.open_chat_stream(asking, request(stream=True, model="nobody")),
    ):
        with pytest.raises(HubError):
            await work
    assert await parts.left(asking) == 1000
    parts.assert_idle()


async def test_a_stream_cut_off_costs_its_prompt_and_what_was_sent() -> None:
    parts, asking = Setting(answer=lambda _: "từ " * 200, token_s=0.005), caller(tokens_per_minute=1000, streams=1)
    frames = await parts.chat.open_chat_stream(asking, request("Xin chào", stream=True, max_completion_tokens=200))
    sent = [await anext(frames) for _ in range(10)]
    await frames.aclose()
    await asyncio.gather(*parts.limits._tasks)
    used = 1000 - await parts.left(asking)
    assert len(sent) <= used < 60
    await (await parts.chat.open_chat_stream(asking, request(stream=True))).aclose()  # the stream is free again
    parts.assert_idle()


async def test_an_answer_that_is_cancelled_costs_what_was_reserved_and_one_that_waited_for_its_turn_nothing() -> None:
    parts, asking = Setting(places=1, token_s=0.01, answer=lambda _: "từ " * 50), caller(tokens_per_minute=1000)
    asked = asyncio.create_task(parts.chat.chat(asking, request(max_completion_tokens=50)))
    await asyncio.sleep(0.05)
    waiting = caller(tokens_per_minute=1000)
    tasks = [
        asyncio.create_task(parts.chat.chat(waiting, request(max_completion_tokens=50))),
        asyncio.create_task(parts.chat.open_chat_stream(waiting, request(stream=True))),
    ]
    await asyncio.sleep(0.05)
    assert await parts.left(waiting) < 1000
    for task in [*tasks, asked]:
        task.cancel()
    await asyncio.gather(*tasks, asked, return_exceptions=True)
    assert all(task.cancelled() for task in [*tasks, asked])
    assert await parts.left(waiting) == 1000
    assert await parts.left(asking) < 950
    parts.assert_idle()


async def test_streams_are_limited_and_plain_answers_are_not_streams() -> None:
    parts, asking = Setting(token_s=0.01), caller(streams=2)
    opened = [await parts.chat.open_chat_stream(asking, request(stream=True)) for _ in range(2)]
    with pytest.raises(RateLimitError, match="2 streams"):
        await parts.chat.open_complete_stream(asking, completion(stream=True))
    await parts.chat.chat(asking, request())
    await transcript(opened[0])
    await (await parts.chat.open_complete_stream(asking, completion(stream=True))).aclose()
    await opened[1].aclose()
    parts.assert_idle()


async def test_one_key_that_floods_does_not_starve_another() -> None:
    """500 requests of one key at 8 places; those of another wait for about one answer, and none is lost."""
    parts = Setting(places=8, most_waiting=1000, token_s=0.01, answer=lambda _: "a b c d")
    loop = asyncio.get_running_loop()
    flooding, other = caller(), caller()
    service_s = 0.03
    flood = [asyncio.create_task(parts.chat.chat(flooding, request())) for _ in range(500)]
    await asyncio.sleep(0.1)
    waits = []
    for number in range(20):
        started_s, record = loop.time(), RequestRecord()
        token = current_record.set(record)
        if number % 2:
            await transcript(await parts.chat.open_chat_stream(other, request(stream=True)))
        else:
            await parts.chat.chat(other, request())
        current_record.reset(token)
        waits.append(loop.time() - started_s - service_s)
        assert record.queued_s > 0
        assert record.queued_s <= loop.time() - started_s
    assert sum(not task.done() for task in flood) > 100
    assert sorted(waits)[18] < service_s * 8
    answers = await asyncio.gather(*flood)
    assert len(answers) == 500
    parts.assert_idle()


async def test_a_key_whose_queue_is_full_is_refused_while_others_are_let_in_and_callers_without_a_key_hear_503() -> None:
    parts = Setting(places=1, most_waiting=4, token_s=0.02)
    flooding, other = caller(), caller()
    flood = [asyncio.create_task(parts.chat.chat(flooding, request())) for _ in range(5)]
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFullError) as refused:
        await parts.chat.chat(flooding, request())
    assert (refused.value.status, refused.value.code) == (429, "queue_full")
    assert refused.value.retry_after_s == 1
    with pytest.raises(QueueFullError):
        await parts.chat.open_chat_stream(flooding, request(stream=True))
    assert parts.registry.get_sample_value("aihub_limits_refused_total", {"reason": "queue"}) == 2
    await parts.chat.chat(other, request())
    await asyncio.gather(*flood)
    without_key = [asyncio.create_task(parts.chat.chat(CALLER, request())) for _ in range(6)]
    results = await asyncio.gather(*without_key, return_exceptions=True)
    assert [type(result) for result in results if not isinstance(result, dict)] == [OverloadedError]
    parts.assert_idle()


async def test_a_slow_reader_holds_its_place_and_a_client_that_leaves_gives_it_back() -> None:
    parts = Setting(places=1)
    stream = await parts.chat.open_chat_stream(caller(), request(stream=True))
    waiting = asyncio.create_task(parts.chat.chat(caller(), request()))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await stream.aclose()
    assert (await waiting)["object"] == "chat.completion"
    parts.assert_idle()


async def test_who_waits_long_for_a_turn_hears_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.load_wait.WORK_GRACE_S", 0.05)
    parts = Setting(places=1)
    first = await parts.chat.open_chat_stream(caller(), request(stream=True))
    frames = await parts.chat.open_chat_stream(caller(), request(stream=True))
    assert (await anext(frames)).startswith(": waiting for a turn")
    await first.aclose()
    rest = "".join([frame async for frame in frames])
    assert rest.endswith("data: [DONE]\n\n")
    parts.assert_idle()


async def test_a_stream_closed_while_it_waits_for_its_turn_leaves_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.load_wait.WORK_GRACE_S", 0.02)
    parts, asking = Setting(places=1), caller(tokens_per_minute=1000)
    first = await parts.chat.open_chat_stream(caller(), request(stream=True))
    frames: AsyncGenerator[str, None] = await parts.chat.open_chat_stream(asking, request(stream=True))
    async with aclosing(frames):
        await anext(frames)
    await first.aclose()
    assert await parts.left(asking) == 1000
    parts.assert_idle()


async def test_a_question_asked_by_other_sources_is_limited_too() -> None:
    parts, asking = Setting(BATTERY), caller(tokens_per_minute=50)
    other = hub(BATTERY).chat._rag
    with pytest.raises(RateLimitError):
        await parts.chat.with_rag(other).chat(asking, request("từ " * 100))
    await parts.chat.require(asking, request())
    assert [model["id"] for model in await parts.chat.models(asking)] == ["fake-chat"]


@pytest.mark.parametrize(
    ("fields", "stated", "most"),
    [
        ({"max_completion_tokens": 30}, 30, 30),
        ({"max_completion_tokens": 30, "n": 3}, 90, 90),
        ({}, 0, 100),
        ({"n": 2}, 0, 200),
        ({"max_tokens": 10, "retrieval": {"vector_store_ids": ["vs_shop"], "top_k": 3}}, 10, 2410),
    ],
)
def test_what_is_reserved_beside_the_prompt(fields: dict[str, Any], stated: int, most: int) -> None:
    found = estimate(request(**fields), usual_answer=100)
    assert found.stated - found.prompt == stated
    assert found.most - found.prompt == most


@pytest.mark.parametrize(("prompt", "count"), [("một hai ba", 1), (["một", "hai"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)])
def test_completions_reserve_each_prompt(prompt: Any, count: int) -> None:
    found = estimate(completion(prompt=prompt, max_tokens=20), usual_answer=100)
    assert found.stated - found.prompt == 20 * count
    assert found.prompt >= 3


async def test_an_answer_from_the_cache_costs_no_tokens_and_takes_no_turn() -> None:
    parts, asking = Setting(places=1), caller(tokens_per_minute=1000, requests_per_minute=100)
    cached = CachedChat(parts.chat, parts.pipeline, FakeAnswerStore(), ttl_s=60.0, metrics=Metrics())
    first = await cached.chat(asking, request("Xin chào", temperature=0.0))
    left = await parts.left(asking)
    assert left == 1000 - first["usage"]["total_tokens"]
    held = await parts.chat.open_chat_stream(caller(), request(stream=True))  # the only place
    async with asyncio.timeout(2):
        assert await cached.chat(asking, request("Xin chào", temperature=0.0)) == first
    assert await parts.left(asking) == left
    assert len(parts.engine.bodies) == 2
    await held.aclose()
    await cached.close()


@pytest.mark.parametrize("has_key", [False, True])
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_broken_off_answer_leaves_its_prompt_in_the_record(*, is_streamed: bool, has_key: bool) -> None:
    parts, record = Setting(answer=lambda _: "từ " * 200, token_s=0.01), RequestRecord()
    asking = caller(tokens_per_minute=1000) if has_key else CALLER
    token = current_record.set(record)
    try:
        if is_streamed:
            frames = await parts.chat.open_chat_stream(asking, request("Xin chào", stream=True))
            _ = [await anext(frames) for _ in range(5)]
            await frames.aclose()
        else:
            asked = asyncio.create_task(parts.chat.chat(asking, request("Xin chào")))
            await asyncio.sleep(0.05)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
    finally:
        current_record.reset(token)
    assert record.prompt_tokens == estimate(request("Xin chào"), usual_answer=100).prompt
    parts.assert_idle()


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_shared_answer_is_on_the_record_of_who_asked_first_also_when_that_one_leaves(*, is_streamed: bool) -> None:
    parts = Setting(answer=lambda _: "từ " * 20 + "hết", token_s=0.01)
    local = LocalEngine(parts.engine, "fake-chat", NoCounts())
    parts.directory._engine = ObservedEngine(local, "fake-chat", EngineHistory(), provider="local")
    cached = CachedChat(parts.chat, parts.pipeline, FakeAnswerStore(), ttl_s=60.0, metrics=Metrics())
    records, handed_over = [RequestRecord(), RequestRecord()], list[RequestRecord]()
    asked = request("Xin chào", temperature=0.0, stream=is_streamed)

    async def ask(record: RequestRecord) -> Any:
        current_record.set(record)
        return await (transcript(await cached.open_chat_stream(CALLER, asked)) if is_streamed else cached.chat(CALLER, asked))

    first = asyncio.create_task(ask(records[0]))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(ask(records[1]))
    await asyncio.sleep(0.02)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    records[0].when_worked(lambda: handed_over.append(records[0]))
    assert handed_over == []
    assert await second
    async with asyncio.timeout(2):
        while not handed_over:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)
    assert (records[0].completion_tokens, records[1].completion_tokens) == (21, 0)
    assert len(parts.engine.bodies) == 1
    await cached.close()
