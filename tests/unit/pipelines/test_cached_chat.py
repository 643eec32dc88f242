import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aihub.cache.fake import FakeAnswerStore
from aihub.cache.service import CacheControl, requested_cache_control
from aihub.cache.settings import CacheSettings
from aihub.chat.completions import CompletionRequest
from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import (
    ContextLengthError,
    HubError,
    ModelUnavailableError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
)
from aihub.core.logging import response_headers
from aihub.core.metrics import Metrics
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord, current_record
from aihub.core.schemas import validate
from pipelines import cached_chat
from pipelines.cached_chat import CachedChat
from tests.unit.pipelines.rag_parts import CALLER, Hub, hub, request, store, transcript


class Cached:
    """A hub with a cached chat, and another replica of it beside."""

    def __init__(self, parts: Hub | None = None, answers: FakeAnswerStore | None = None) -> None:
        self.hub = parts or hub(answer=lambda prompt: f"{prompt} · " + "từ " * 5)
        self.store = answers or FakeAnswerStore()
        self.chat = self.replica()

    def replica(self) -> CachedChat:
        return CachedChat(self.hub.chat, self.hub.chat, self.store, ttl_s=60.0, metrics=Metrics())

    @property
    def asked(self) -> int:
        return len(self.hub.engine.bodies)


@contextmanager
def told(control: CacheControl | None = None) -> Iterator[dict[str, str]]:
    """The headers of one answer, by a request with this `Cache-Control`."""
    headers: dict[str, str] = {}
    tokens = response_headers.set(headers), requested_cache_control.set(control), current_record.set(RequestRecord())
    try:
        yield headers
    finally:
        response_headers.reset(tokens[0])
        requested_cache_control.reset(tokens[1])
        current_record.reset(tokens[2])


async def ask(chat: CachedChat, control: CacheControl | None = None, **fields: Any) -> tuple[str, str]:
    """Return what the cache is said to have done, and the bytes of the answer."""
    asked = request(**({"temperature": 0.0} | fields))
    principal = CALLER
    with told(control) as headers:
        if asked.stream:
            answer = await transcript(await chat.open_chat_stream(principal, asked))
        else:
            answer = json.dumps(await chat.chat(principal, asked))
        record = current_record.get()
        assert record is not None
        assert record.cache == headers["x-aihub-cache"]
        assert (record.model == "fake-chat") == (record.cache == "hit")
        return headers["x-aihub-cache"], answer


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
async def test_the_same_question_gets_the_same_bytes_and_the_engine_is_asked_once(is_streamed: bool) -> None:
    parts = Cached()
    first = await ask(parts.chat, stream=is_streamed)
    assert first[0] == "miss"
    for chat in (parts.chat, parts.replica()):
        assert await ask(chat, stream=is_streamed) == ("hit", first[1])
    assert parts.asked == 1
    assert (await ask(parts.chat, stream=not is_streamed))[0] == "miss"


async def test_completions_are_kept_as_well() -> None:
    parts = Cached()
    body = {"model": "fake-chat", "prompt": "Xin chào", "temperature": 0}
    plain = [await parts.chat.complete(CALLER, validate(CompletionRequest, body)) for _ in range(2)]
    assert plain[0] == plain[1]
    streamed = validate(CompletionRequest, body | {"stream": True})
    texts = [await transcript(await parts.chat.open_complete_stream(CALLER, streamed)) for _ in range(2)]
    assert texts[0] == texts[1]
    assert parts.asked == 2
    assert await parts.chat.models(CALLER) == await parts.hub.chat.models(CALLER)


@pytest.mark.parametrize(
    ("fields", "control", "expected"),
    [
        ({"temperature": None}, None, ["off", "off"]),
        ({"temperature": 0.7}, None, ["off", "off"]),
        ({"temperature": 0.7, "cache": True}, None, ["miss", "hit"]),
        ({"temperature": 0.7, "cache": {"ttl_s": 30}}, None, ["miss", "hit"]),
        ({"temperature": 0.7, "seed": 1}, None, ["miss", "hit"]),
        ({"temperature": 0.7, "top_p": 0.0}, None, ["miss", "hit"]),
        ({"temperature": 0.7, "top_k": 1}, None, ["miss", "hit"]),
        ({"cache": False}, None, ["off", "off"]),
        ({}, "no-store", ["off", "off"]),
        ({"cache": True}, "no-store", ["off", "off"]),
        ({}, "no-cache", ["miss", "miss"]),
        ({"temperature": 0.7}, "no-cache", ["off", "off"]),
    ],
)
async def test_what_is_kept_is_deterministic_or_asked_for(
    fields: dict[str, Any], control: CacheControl | None, expected: list[str]
) -> None:
    parts = Cached()
    assert [(await ask(parts.chat, control, **fields))[0] for _ in range(2)] == expected


async def test_no_cache_replaces_the_kept_answer() -> None:
    parts = Cached()
    old = await ask(parts.chat)
    new = await ask(parts.chat, "no-cache")
    assert new[1] != old[1]
    assert await ask(parts.chat) == ("hit", new[1])


async def test_media_are_not_kept() -> None:
    parts = Cached()
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    with told() as headers, pytest.raises(HubError):
        await parts.chat.chat(CALLER, request(messages=[{"role": "user", "content": content}], temperature=0.0, cache=True))
    assert headers["x-aihub-cache"] == "off"


async def test_an_answer_ends_with_the_time_that_its_request_names() -> None:
    now = 0.0
    parts = Cached(answers=FakeAnswerStore(clock=lambda: now))
    await ask(parts.chat, cache={"ttl_s": 5})
    now = 4.0
    assert (await ask(parts.chat))[0] == "hit"
    now = 6.0
    assert (await ask(parts.chat))[0] == "miss"
    now = 65.0
    assert (await ask(parts.chat))[0] == "hit"
    now = 67.0
    assert (await ask(parts.chat))[0] == "miss"


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
async def test_a_hundred_at_once_on_two_replicas_ask_the_engine_once(is_streamed: bool) -> None:
    parts = Cached(hub(engine=FakeChatEngine(first_token_s=0.05, token_s=0.01)))
    chats = parts.chat, parts.replica()
    found = await asyncio.gather(*(asyncio.create_task(ask(chats[n % 2], stream=is_streamed)) for n in range(100)))
    assert parts.asked == 1
    assert [status for status, _ in found].count("miss") == 1
    assert {answer for _, answer in found} == {found[0][1]}


async def test_followers_in_the_same_replica_get_frames_as_they_come() -> None:
    parts = Cached(hub(engine=FakeChatEngine(answer=lambda _: "một hai ba bốn", token_s=0.05)))
    streams = [await parts.chat.open_chat_stream(CALLER, request(stream=True, temperature=0.0)) for _ in range(2)]
    first = [await anext(stream) for stream in streams]
    assert first[0] == first[1]
    assert parts.hub.engine.active == 1
    assert len({await transcript(stream) for stream in streams}) == 1


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
async def test_a_client_that_leaves_breaks_nothing_for_those_who_follow(is_streamed: bool) -> None:
    parts = Cached(hub(engine=FakeChatEngine(first_token_s=0.1, token_s=0.01)))
    asks = [asyncio.create_task(ask(parts.chat, stream=is_streamed)) for _ in range(3)]
    await asyncio.sleep(0.03)
    asks[0].cancel()
    asks[1].cancel()
    await asyncio.gather(*asks[:2], return_exceptions=True)
    assert parts.hub.engine.active == 1
    assert (await asks[2])[0] == "hit"
    assert (await ask(parts.chat, stream=is_streamed))[0] == "hit"
    assert parts.asked == 1


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "streamed"])
async def test_the_engine_stops_when_the_last_client_has_left_and_another_replica_takes_over(
    is_streamed: bool,
) -> None:
    parts = Cached(hub(engine=FakeChatEngine(first_token_s=0.2)))
    leaving = asyncio.create_task(ask(parts.chat, stream=is_streamed))
    await asyncio.sleep(0.03)
    waiting = asyncio.create_task(ask(parts.replica(), stream=is_streamed))
    await asyncio.sleep(0.03)
    assert parts.asked == 1
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert parts.hub.engine.active == 0
    assert (await waiting)[0] == "miss"
    assert parts.asked == 2


async def test_a_stream_closed_in_the_middle_stops_the_engine_and_leaves_nothing() -> None:
    parts = Cached(hub(engine=FakeChatEngine(token_s=0.05)))
    stream = await parts.chat.open_chat_stream(CALLER, request(stream=True, temperature=0.0))
    await anext(stream)
    await stream.aclose()
    assert parts.hub.engine.active == 0
    assert not parts.store.entries
    assert (await ask(parts.chat, stream=True))[0] == "miss"


async def test_a_stream_that_nobody_reads_can_be_closed() -> None:
    parts = Cached(hub(engine=FakeChatEngine(token_s=0.05)))
    stream = await parts.chat.open_chat_stream(CALLER, request(stream=True, temperature=0.0))
    await stream.aclose()
    assert parts.hub.engine.active == 0


class FailingOnce(FakeChatEngine):
    """Fails so many times, after a pause in which others may join."""

    def __init__(self, error: HubError, times: int) -> None:
        super().__init__()
        self.failure, self.times, self.calls = error, times, 0

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        await asyncio.sleep(0.02)
        if self.calls <= self.times:
            raise self.failure
        return await super().chat(body)


async def outcomes(parts: Cached, count: int) -> list[str]:
    asks = [asyncio.create_task(ask(parts.chat)) for _ in range(count)]
    found = await asyncio.gather(*asks, return_exceptions=True)
    return sorted(
        item.code if isinstance(item, HubError) else item[0] if isinstance(item, tuple) else repr(item) for item in found
    )


async def test_when_the_leader_fails_one_who_waits_takes_over() -> None:
    engine = FailingOnce(ModelUnavailableError("The engine died."), 1)
    assert await outcomes(Cached(hub(engine=engine)), 5) == ["hit", "hit", "hit", "miss", "model_unavailable"]
    assert engine.calls == 2


async def test_a_part_that_stays_away_is_asked_twice_not_once_for_each() -> None:
    engine = FailingOnce(ModelUnavailableError("The engine died."), 100)
    assert await outcomes(Cached(hub(engine=engine)), 20) == ["model_unavailable"] * 20
    assert engine.calls == 2


async def test_a_limit_of_the_leaders_key_is_not_the_followers() -> None:
    engine = FailingOnce(RateLimitError("Too many requests."), 2)
    parts = Cached(hub(engine=engine))
    assert await outcomes(parts, 5) == ["hit", "hit", "miss", "rate_limit_exceeded", "rate_limit_exceeded"]


async def test_a_request_that_is_wrong_is_wrong_for_all_and_asked_once() -> None:
    engine = FailingOnce(ContextLengthError("Too long."), 100)
    parts = Cached(hub(engine=engine))
    assert await outcomes(parts, 5) == ["context_length_exceeded"] * 5
    assert engine.calls == 1
    assert not parts.store.entries


class CutStream(FakeChatEngine):
    async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        async for frame in super().stream_chat(body):
            yield frame
            raise ModelUnavailableError("The engine died.")


async def test_a_stream_that_breaks_off_is_told_to_all_and_not_kept() -> None:
    parts = Cached(hub(engine=CutStream()))
    for _ in range(2):
        status, text = await ask(parts.chat, stream=True)
        assert status == "miss"
        assert '"code":"model_unavailable"' in text
    assert not parts.store.entries


async def test_a_long_answer_is_given_but_not_kept() -> None:
    parts = Cached(hub(answer=lambda _: "phở " * 2000), FakeAnswerStore(CacheSettings(mb=1, entry_kb=1)))
    for is_streamed in (False, True):
        found = await asyncio.gather(*(asyncio.create_task(ask(parts.chat, stream=is_streamed)) for _ in range(5)))
        assert all(answer.count("ph") == 2000 for _, answer in found)
    assert not parts.store.entries


async def test_without_redis_every_question_is_asked_and_nothing_fails() -> None:
    parts = Cached()
    parts.store.is_away = True
    assert [(await ask(parts.chat, stream=stream))[0] for stream in (False, True, False)] == ["off"] * 3
    assert parts.asked == 3
    parts.store.is_away = False
    assert [(await ask(parts.chat))[0] for _ in range(2)] == ["miss", "hit"]


async def test_redis_that_goes_while_an_answer_is_made_costs_only_the_keeping() -> None:
    parts = Cached(hub(engine=FakeChatEngine(first_token_s=0.05)))
    asking = asyncio.create_task(ask(parts.chat))
    await asyncio.sleep(0.02)
    waiting = asyncio.create_task(ask(parts.replica()))
    await asyncio.sleep(0.01)
    parts.store.is_away = True
    assert (await asking)[0] == "miss"
    assert (await waiting)[0] == "off"


async def test_a_cache_of_no_size_is_off() -> None:
    parts = Cached(answers=FakeAnswerStore(CacheSettings(mb=0)))
    assert [(await ask(parts.chat))[0] for _ in range(2)] == ["off", "off"]


async def test_a_new_version_of_the_model_is_asked_and_so_is_the_old_one_again() -> None:
    parts = Cached()
    old = await ask(parts.chat)
    parts.hub.models.version = "v2"
    assert (await ask(parts.chat))[0] == "miss"
    parts.hub.models.version = ""
    assert (await ask(parts.chat))[0] == "off"
    parts.hub.models.version = "v1"
    assert await ask(parts.chat) == ("hit", old[1])


async def test_an_alias_is_another_model_after_a_promotion_and_the_old_one_after_a_rollback() -> None:
    parts = Cached()
    statuses = []
    for stands_for in ("base:shop@v1", "base:shop@v2", "base:shop@v2", "base:shop@v1"):
        parts.hub.models.stands_for = stands_for
        with told() as headers:
            await parts.chat.chat(CALLER, request(temperature=0.0))
        statuses.append(headers["x-aihub-cache"])
    assert statuses == ["miss", "miss", "hit", "hit"]


async def test_an_answer_is_not_kept_when_the_model_changes_while_it_is_made() -> None:
    parts = Cached(hub(engine=FakeChatEngine(first_token_s=0.05)))
    asking = asyncio.create_task(ask(parts.chat))
    await asyncio.sleep(0.02)
    parts.hub.models.version = "v2"
    await asking
    assert not parts.store.entries
    parts.hub.models.version = "v1"
    assert (await ask(parts.chat))[0] == "miss"


async def test_a_document_that_changes_changes_the_answer() -> None:
    parts = Cached(hub("Giá phở là 50 nghìn đồng.", answer=lambda prompt: prompt))
    asked = {"question": "Giá phở?", "retrieval": True}
    assert [(await ask(parts.chat, **asked))[0] for _ in range(2)] == ["miss", "hit"]
    parts.hub.stores.stores = [store(version=2)]
    assert (await ask(parts.chat, **asked))[0] == "miss"
    parts.hub.stores.stores = [store(version=2, status="expired")]
    with pytest.raises(NotFoundError):
        await ask(parts.chat, **asked)
    parts.hub.stores.stores = []
    with pytest.raises(NotFoundError):
        await ask(parts.chat, **asked)


async def test_a_key_without_the_store_or_the_model_gets_no_kept_answer() -> None:
    parts = Cached(hub("Giá phở là 50 nghìn đồng."))
    asked = request("Giá phở?", retrieval=True, temperature=0.0)
    await parts.chat.chat(CALLER, asked)
    assert len(parts.store.entries) == 1
    with pytest.raises(PermissionDeniedError):
        await parts.chat.chat(Principal(vector_stores=frozenset({"vs_other"})), asked)
    with pytest.raises(NotFoundError):
        await parts.chat.chat(Principal(tenant_id="other"), asked)


async def test_a_stream_that_waits_for_another_replica_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_chat, "COMMENT_PERIOD_S", 0.02)
    parts = Cached(hub(engine=FakeChatEngine(first_token_s=0.15)))
    leading = asyncio.create_task(ask(parts.chat, stream=True))
    await asyncio.sleep(0.02)
    status, text = await ask(parts.replica(), stream=True)
    assert status == "hit"
    assert text.startswith(": waiting for the same answer")
    lines = [event for event in text.split("\n\n") if not event.startswith(":")]
    assert "\n\n".join(lines) == (await leading)[1]
    assert parts.asked == 1


async def test_closing_stops_the_answers_that_are_made() -> None:
    parts = Cached(hub(engine=FakeChatEngine(first_token_s=30.0)))
    asking = asyncio.create_task(ask(parts.chat))
    await asyncio.sleep(0.02)
    await parts.chat.close()
    assert parts.hub.engine.active == 0
    with pytest.raises(ModelUnavailableError):
        await asking
