"""What engines, providers and waits for a load leave in the record of a request."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.fallback import Candidate, FallbackEngine
from aihub.chat.history import EngineHistory, ObservedEngine
from aihub.chat.service import ChatEngine
from aihub.core.errors import ModelUnavailableError
from aihub.core.request_record import RequestRecord, current_record
from deployments.local_engine import LocalEngine
from pipelines.load_wait import LoadWait

BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Xin chào"}], "stream": True}


class Counts:
    def note_begin(self, model_id: str) -> None:
        """Count nothing."""

    def note_end(self, model_id: str) -> None:
        """Count nothing."""


@pytest.fixture
def record() -> Iterator[RequestRecord]:
    made = RequestRecord()
    token = current_record.set(made)
    yield made
    current_record.reset(token)


def observed(engine: ChatEngine, model_id: str, provider: str = "local") -> ObservedEngine:
    return ObservedEngine(engine, model_id, EngineHistory(), provider=provider)


async def drain(frames: AsyncGenerator[str, None]) -> None:
    async with aclosing(frames):
        async for _ in frames:
            pass


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_adapter_that_answers_is_named_with_its_version(record: RequestRecord, is_streamed: bool) -> None:
    adapter = LocalEngine(FakeChatEngine("qwen"), "qwen", Counts(), "qwen:cửa-hàng@v3")
    engine = observed(adapter, "qwen:cửa-hàng")
    if is_streamed:
        await drain(engine.stream_chat(BODY))
    else:
        await engine.chat(BODY)
    assert (record.model, record.provider) == ("qwen:cửa-hàng@v3", "local")


@pytest.mark.parametrize("is_streamed", [True, False])
async def test_stand_in_that_answers_is_named_and_not_the_model_that_failed(record: RequestRecord, is_streamed: bool) -> None:
    broken = FakeChatEngine("qwen")
    broken.error = ModelUnavailableError("It died.")

    async def opened(engine: ChatEngine) -> ChatEngine:
        return engine

    first, second = observed(broken, "qwen"), observed(FakeChatEngine("gpt"), "openai/gpt", "openai")
    engine = FallbackEngine(
        [Candidate("local", "qwen", lambda: opened(first)), Candidate("openai", "openai/gpt", lambda: opened(second))]
    )
    if is_streamed:
        await drain(engine.stream_chat(BODY))
    else:
        await engine.chat(BODY)
    assert (record.model, record.provider) == ("openai/gpt", "openai")


async def test_wait_for_a_load_is_time_in_a_queue(record: RequestRecord) -> None:
    wait = LoadWait()
    with wait.noted("qwen", lambda: "loading"):
        await asyncio.sleep(0.05)
    assert 0.05 <= record.queued_s < 0.1
    assert record.waited_s == 0.0
