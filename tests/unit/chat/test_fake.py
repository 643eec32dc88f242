import asyncio
import json
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import ContextLengthError, ModelUnavailableError

BODY: dict[str, Any] = {"model": "fake-chat", "messages": [{"role": "user", "content": "một hai ba"}]}


async def frames_of(engine: FakeChatEngine, **changes: Any) -> list[str]:
    return [frame async for frame in engine.stream_chat(BODY | changes)]


def chunk(frame: str) -> dict[str, Any]:
    assert frame.startswith("data: ")
    assert frame.endswith("\n\n")
    parsed: dict[str, Any] = json.loads(frame[6:])
    return parsed


async def test_stream_holds_the_same_text_as_the_plain_answer() -> None:
    engine = FakeChatEngine()
    whole = (await engine.chat(BODY))["choices"][0]["message"]["content"]
    frames = await frames_of(engine)
    assert frames[-1] == "data: [DONE]\n\n"
    deltas = [chunk(frame)["choices"][0]["delta"] for frame in frames[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas) == whole == "You said: một hai ba"


async def test_usage_chunk_comes_last_and_only_on_request() -> None:
    engine = FakeChatEngine()
    assert all("usage" not in frame for frame in await frames_of(engine))
    last = chunk((await frames_of(engine, stream_options={"include_usage": True}))[-2])
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}


async def test_stop_and_limit_end_the_answer() -> None:
    engine = FakeChatEngine()
    stopped = (await engine.chat(BODY | {"stop": "hai"}))["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("You said: một ", "stop")
    cut = (await engine.chat(BODY | {"max_completion_tokens": 3}))["choices"][0]
    assert (cut["message"]["content"], cut["finish_reason"]) == ("You said: một", "length")


async def test_prompt_over_the_context_is_refused() -> None:
    engine = FakeChatEngine(context_tokens=5)
    assert await engine.count_tokens(BODY) == 3
    await engine.chat(BODY | {"max_completion_tokens": 2})
    with pytest.raises(ContextLengthError):
        await engine.chat(BODY | {"max_completion_tokens": 3})
    assert engine.active == 0


async def test_closing_a_stream_ends_the_request() -> None:
    engine = FakeChatEngine(token_s=10.0)
    stream = engine.stream_chat(BODY)
    await anext(stream)
    assert engine.active == 1
    await stream.aclose()
    assert engine.active == 0


async def test_cancelling_an_answer_ends_the_request() -> None:
    engine = FakeChatEngine(first_token_s=10.0)
    task = asyncio.create_task(engine.chat(BODY))
    await asyncio.sleep(0)
    assert engine.active == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert engine.active == 0


async def test_error_is_raised_by_every_call_while_set() -> None:
    engine = FakeChatEngine()
    engine.error = ModelUnavailableError("loading")
    with pytest.raises(ModelUnavailableError):
        await engine.complete({"model": "fake-chat", "prompt": "a"})
    with pytest.raises(ModelUnavailableError):
        await frames_of(engine)
