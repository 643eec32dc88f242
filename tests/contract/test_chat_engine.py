"""What every `ChatEngine` promises. Subclass `ChatEngineContract` with an `engine` fixture and `active` to check another one."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from aihub.chat.fake import FakeChatEngine
from aihub.chat.service import ChatEngine
from aihub.core.errors import ContextLengthError, InvalidRequestError

STOPPED_WITHIN_S = 1.0
# Of one red pixel.
PNG_URL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


async def chat_body(engine: ChatEngine, text: str = "Xin chào, bạn là ai?", **fields: Any) -> dict[str, Any]:
    defaults = {"temperature": 0.0, "max_completion_tokens": 12, "stream": False}
    return {"model": (await engine.model_info()).model_id, "messages": [{"role": "user", "content": text}]} | defaults | fields


async def prompt_body(engine: ChatEngine, **fields: Any) -> dict[str, Any]:
    defaults = {"temperature": 0.0, "max_tokens": 8, "stream": False}
    return {"model": (await engine.model_info()).model_id, "prompt": "One, two, three,"} | defaults | fields


async def collect(frames: AsyncGenerator[str, None]) -> tuple[list[dict[str, Any]], str]:
    """Return the objects of a stream and its last event, after checking the framing."""
    text = ""
    async with aclosing(frames):
        async for frame in frames:
            assert frame.endswith("\n\n"), "a frame holds whole events"
            text += frame
    *events, last = text.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: {") for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events], last


class ChatEngineContract:
    """The suite; needs a fixture `engine`."""

    async def active(self, engine: Any) -> int:
        """Return how many requests the engine is working on."""
        raise NotImplementedError

    async def test_card_names_model_and_context(self, engine: ChatEngine) -> None:
        model_info = await engine.model_info()
        assert model_info.model_id
        assert model_info.context_tokens > 0

    async def test_health_is_ok(self, engine: ChatEngine) -> None:
        assert (await engine.health()).status == "ok"

    async def test_chat_answers_with_a_completion_object(self, engine: ChatEngine) -> None:
        answer = await engine.chat(await chat_body(engine))
        assert answer["object"] == "chat.completion"
        assert answer["model"] == (await engine.model_info()).model_id
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["choices"][0]["message"]["content"]
        assert answer["choices"][0]["finish_reason"] in {"stop", "length"}
        usage = answer["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    async def test_chat_answer_is_plain_json(self, engine: ChatEngine) -> None:
        answer = await engine.chat(await chat_body(engine))
        assert json.loads(json.dumps(answer, allow_nan=False)) == answer

    async def test_chat_stops_at_the_token_limit(self, engine: ChatEngine) -> None:
        answer = await engine.chat(await chat_body(engine, "Count from one to one hundred.", max_completion_tokens=3))
        assert answer["usage"]["completion_tokens"] == 3
        assert answer["choices"][0]["finish_reason"] == "length"

    async def test_chat_gives_as_many_choices_as_asked(self, engine: ChatEngine) -> None:
        answer = await engine.chat(await chat_body(engine, n=2, temperature=1.0))
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]

    async def test_chat_stream_says_the_same_as_chat(self, engine: ChatEngine) -> None:
        whole = await engine.chat(await chat_body(engine))
        chunks, last = await collect(engine.stream_chat(await chat_body(engine, stream=True)))
        said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
        assert said == whole["choices"][0]["message"]["content"]
        assert last == "data: [DONE]"

    async def test_chat_stream_finishes_each_choice_once_under_one_id(self, engine: ChatEngine) -> None:
        chunks, _ = await collect(engine.stream_chat(await chat_body(engine, stream=True)))
        reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
        assert len(reasons) == 1
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}

    async def test_chat_stream_ends_with_usage_only_when_asked(self, engine: ChatEngine) -> None:
        asked = await chat_body(engine, stream=True, stream_options={"include_usage": True})
        with_usage, _ = await collect(engine.stream_chat(asked))
        without, _ = await collect(engine.stream_chat(await chat_body(engine, stream=True)))
        assert with_usage[-1]["choices"] == []
        assert with_usage[-1]["usage"]["completion_tokens"] > 0
        assert not any(chunk.get("usage") for chunk in without)

    async def test_complete_answers_with_a_text_completion(self, engine: ChatEngine) -> None:
        answer = await engine.complete(await prompt_body(engine))
        assert answer["object"] == "text_completion"
        assert answer["choices"][0]["text"]
        assert answer["usage"]["completion_tokens"] <= 8

    async def test_complete_stream_says_the_same_as_complete(self, engine: ChatEngine) -> None:
        whole = await engine.complete(await prompt_body(engine))
        chunks, last = await collect(engine.stream_complete(await prompt_body(engine, stream=True)))
        assert "".join(choice["text"] for chunk in chunks for choice in chunk["choices"]) == whole["choices"][0]["text"]
        assert last == "data: [DONE]"

    async def test_count_tokens_equals_what_chat_reports(self, engine: ChatEngine) -> None:
        body = await chat_body(engine, "Thủ đô của Việt Nam là gì?")
        assert await engine.count_tokens(body) == (await engine.chat(body))["usage"]["prompt_tokens"]

    async def test_count_tokens_counts_beyond_the_context(self, engine: ChatEngine) -> None:
        context = (await engine.model_info()).context_tokens
        assert await engine.count_tokens({"messages": [{"role": "user", "content": "từ " * (2 * context)}]}) > context

    async def test_conversation_over_the_context_is_refused(self, engine: ChatEngine) -> None:
        too_long = "word " * ((await engine.model_info()).context_tokens + 100)
        with pytest.raises(ContextLengthError):
            await engine.chat(await chat_body(engine, too_long))
        assert (await engine.chat(await chat_body(engine)))["choices"]

    async def test_stream_refuses_before_its_first_frame(self, engine: ChatEngine) -> None:
        too_long = "word " * ((await engine.model_info()).context_tokens + 100)
        with pytest.raises(ContextLengthError):
            await anext(engine.stream_chat(await chat_body(engine, too_long, stream=True)))
        assert await self.active(engine) == 0

    async def test_parallel_chats_all_get_an_answer(self, engine: ChatEngine) -> None:
        answers = await asyncio.gather(*[engine.chat(await chat_body(engine, f"Say {n}.")) for n in range(6)])
        assert len({answer["id"] for answer in answers}) == 6

    async def test_closing_a_stream_stops_the_engine_within_a_second(self, engine: ChatEngine) -> None:
        body = await chat_body(engine, "Count to ten thousand. " * 50, stream=True, max_completion_tokens=400, min_tokens=400)
        stream = engine.stream_chat(body)
        await anext(stream)
        await anext(stream)
        assert await self.active(engine) == 1
        await stream.aclose()
        async with asyncio.timeout(STOPPED_WITHIN_S):
            while await self.active(engine):  # noqa: ASYNC110  # a remote engine can only be asked
                await asyncio.sleep(0.02)


async def image_body(engine: ChatEngine, images: int = 1, **fields: Any) -> dict[str, Any]:
    """A question with images of one pixel before it."""
    shown = [{"type": "image_url", "image_url": {"url": PNG_URL, "detail": "auto"}}] * images
    content = [*shown, {"type": "text", "text": "Màu gì?"}]
    return await chat_body(engine, **fields) | {"messages": [{"role": "user", "content": content}]}


class ImageContract:
    """What engines promise of images; needs the fixtures `seeing`, which reads one or more, and `blind`, which reads text."""

    async def test_image_is_answered_whole_and_streamed(self, seeing: ChatEngine) -> None:
        assert (await seeing.model_info()).max_images >= 1
        assert (await seeing.chat(await image_body(seeing)))["choices"][0]["message"]["content"]
        _, last = await collect(seeing.stream_chat(await image_body(seeing, stream=True)))
        assert last == "data: [DONE]"

    async def test_image_counts_as_tokens_whatever_its_data(self, seeing: ChatEngine) -> None:
        with_image = await seeing.count_tokens(await image_body(seeing))
        text_alone = await seeing.count_tokens(await chat_body(seeing, "Màu gì?"))
        assert text_alone < with_image < text_alone + 3_000

    async def test_model_without_sight_refuses_an_image_before_its_first_frame(self, blind: ChatEngine) -> None:
        with pytest.raises(InvalidRequestError):
            await blind.chat(await image_body(blind))
        with pytest.raises(InvalidRequestError):
            await anext(blind.stream_chat(await image_body(blind, stream=True)))
        assert (await blind.chat(await chat_body(blind)))["choices"]


class TestFakeChatEngine(ChatEngineContract, ImageContract):
    @pytest.fixture
    def engine(self) -> FakeChatEngine:
        return FakeChatEngine(token_s=0.0005)

    @pytest.fixture
    def seeing(self) -> FakeChatEngine:
        return FakeChatEngine(max_images=2)

    @pytest.fixture
    def blind(self) -> FakeChatEngine:
        return FakeChatEngine()

    async def test_more_images_than_the_model_reads_are_refused(self, seeing: FakeChatEngine) -> None:
        assert (await seeing.chat(await image_body(seeing, images=2)))["choices"]
        with pytest.raises(InvalidRequestError, match="at most 2"):
            await seeing.chat(await image_body(seeing, images=3))

    async def active(self, engine: FakeChatEngine) -> int:
        return engine.active
