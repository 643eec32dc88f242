from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.request_record import RequestRecord, current_record
from aihub.core.sse import DONE
from deployments.told_usage import stream_with_usage

BODY: dict[str, Any] = {"model": "fake-chat", "messages": [{"role": "user", "content": 'Nói "usage":{ xin chào'}], "stream": True}
ASKING = BODY | {"stream_options": {"include_usage": True}}
Ask = Callable[[dict[str, Any]], AsyncGenerator[str, None]]


@pytest.fixture
def record() -> Iterator[RequestRecord]:
    made = RequestRecord()
    token = current_record.set(made)
    yield made
    current_record.reset(token)


async def frames_of(ask: Ask, body: dict[str, Any]) -> str:
    async with aclosing(stream_with_usage(ask, body)) as frames:
        return "".join([frame async for frame in frames])


async def test_usage_that_the_client_did_not_ask_for_is_told_to_the_record_alone(record: RequestRecord) -> None:
    plain = "".join([frame async for frame in FakeChatEngine().stream_chat(BODY)])
    assert await frames_of(FakeChatEngine().stream_chat, BODY) == plain
    usage = (await FakeChatEngine().chat(BODY))["usage"]
    assert (record.prompt_tokens, record.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert record.completion_tokens > 0


async def test_usage_that_the_client_asked_for_reaches_it_unchanged(record: RequestRecord) -> None:
    asked = "".join([frame async for frame in FakeChatEngine().stream_chat(ASKING)])
    assert await frames_of(FakeChatEngine().stream_chat, ASKING) == asked
    assert '"usage":{' in asked
    assert record.completion_tokens > 0


async def test_usage_in_one_frame_with_other_events_is_taken_out_alone(record: RequestRecord) -> None:
    text = 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    usage = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'

    async def ask(_: dict[str, Any]) -> AsyncGenerator[str, None]:
        yield text + usage + DONE

    assert await frames_of(ask, BODY) == text + DONE
    assert (record.prompt_tokens, record.completion_tokens) == (3, 1)


async def test_closing_the_stream_closes_the_engines() -> None:
    closed = []

    async def ask(_: dict[str, Any]) -> AsyncGenerator[str, None]:
        try:
            while True:
                yield 'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        finally:
            closed.append(True)

    async with aclosing(stream_with_usage(ask, BODY)) as frames:
        await anext(frames)
    assert closed == [True]


@pytest.mark.parametrize("is_one_frame", [False, True])
async def test_fingerprint_stands_where_it_does_without_usage(*, is_one_frame: bool) -> None:
    text = 'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    end = 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    usage = 'data: {"choices":[],"usage":{"prompt_tokens":3},"system_fingerprint":"vllm-1"}\n\n'
    frames = [text, end, usage, DONE]

    async def ask(_: dict[str, Any]) -> AsyncGenerator[str, None]:
        for frame in ["".join(frames)] if is_one_frame else frames:
            yield frame

    ended = 'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"system_fingerprint":"vllm-1"}\n\n'
    assert await frames_of(ask, BODY) == text + ended + DONE
    assert await frames_of(ask, ASKING) == "".join(frames)


async def test_end_is_told_where_no_usage_follows() -> None:
    end = 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'

    async def ask(_: dict[str, Any]) -> AsyncGenerator[str, None]:
        yield end

    assert await frames_of(ask, BODY) == end
