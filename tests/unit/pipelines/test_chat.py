import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2
import openai
import pytest

from aihub.chat.completions import CompletionRequest
from aihub.chat.fake import FakeChatEngine
from aihub.chat.service import ChatModelInfo
from aihub.core.errors import EngineTimeoutError, ModelUnavailableError, NotFoundError, OverloadedError
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from pipelines.load_wait import LoadWait
from tests.unit.pipelines.rag_parts import (
    BATTERY,
    CALLER,
    GOLDEN,
    PHO,
    REFUNDS,
    OneModel,
    data_of,
    hub,
    normalised,
    request,
    transcript,
)

ANSWER = "Phở bò giá 65 nghìn đồng 🍜."


class ScriptedEngine(FakeChatEngine):
    """Streams the given frames; an exception among them is raised there."""

    def __init__(self, *script: str | BaseException, pause_s: float = 0.0) -> None:
        super().__init__()
        self.script = script
        self.pause_s = pause_s
        self.closed = 0

    async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
        try:
            for step in self.script:
                if isinstance(step, BaseException):
                    raise step
                yield step
                await asyncio.sleep(self.pause_s)
        finally:
            self.closed += 1

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(self.pause_s)
        return await super().chat(body)


def completion(**fields: Any) -> CompletionRequest:
    return validate(CompletionRequest, {"model": "fake-chat", "prompt": "Xin chào", **fields})


async def test_plain_chat_is_the_engines_answer() -> None:
    parts = hub()
    answer = await parts.chat.chat(CALLER, request("Xin chào", temperature=0.5))
    assert answer["choices"][0]["message"]["content"] == "You said: Xin chào"
    assert "retrieval" not in answer
    assert "annotations" not in answer["choices"][0]["message"]
    assert parts.engine.bodies[-1]["temperature"] == 0.5


async def test_plain_stream_passes_frames_on_unread() -> None:
    frames = ["not json at all", "data: {broken\n\n", "data: [DONE]\n\n"]
    stream = await hub(engine=ScriptedEngine(*frames)).chat.open_chat_stream(CALLER, request(stream=True))
    assert [frame async for frame in stream] == frames


async def test_completion_passes_through() -> None:
    parts = hub()
    assert (await parts.chat.complete(Principal(), completion()))["choices"][0]["text"] == "You said: Xin chào"
    stream = await parts.chat.open_complete_stream(Principal(), completion(stream=True))
    assert "".join(choice["text"] for c in data_of(await transcript(stream)) for choice in c["choices"]) == "You said: Xin chào"


async def test_unknown_model_is_refused_naming_the_known_ones() -> None:
    parts = hub()
    for call in (parts.chat.chat, parts.chat.open_chat_stream):
        with pytest.raises(NotFoundError, match="'gpt-5'.*fake-chat") as caught:
            await call(CALLER, request(model="gpt-5"))
        assert caught.value.code == "model_not_found"
    with pytest.raises(NotFoundError):
        await parts.chat.complete(Principal(), completion(model="../etc"))


async def test_models_are_openai_model_objects() -> None:
    [model] = await hub().chat.models(Principal())
    assert model == {"id": "fake-chat", "object": "model", "created": 1_700_000_000, "owned_by": "aihub"}


async def test_error_before_the_first_frame_is_raised_when_opening() -> None:
    engine = ScriptedEngine(OverloadedError("The model is busy."))
    with pytest.raises(OverloadedError):
        await hub(engine=engine).chat.open_chat_stream(CALLER, request(stream=True))
    assert engine.closed == 1


async def test_engine_that_says_nothing_is_an_error() -> None:
    with pytest.raises(ModelUnavailableError):
        await hub(engine=ScriptedEngine()).chat.open_chat_stream(CALLER, request(stream=True))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelUnavailableError("The engine died."), "model_unavailable"),
        (RuntimeError("secret path /root"), "internal_error"),
        (ValueError("x"), "internal_error"),
    ],
)
async def test_error_in_the_middle_ends_the_stream_with_an_error_event(error: Exception, code: str) -> None:
    engine = ScriptedEngine('data: {"choices":[]}\n\n', error)
    text = await transcript(await hub(engine=engine).chat.open_chat_stream(CALLER, request(stream=True)))
    assert data_of(text)[-1]["error"]["code"] == code
    assert "secret" not in text
    assert text.endswith("data: [DONE]\n\n")
    assert engine.closed == 1


async def test_slow_answer_is_a_timeout() -> None:
    with pytest.raises(EngineTimeoutError, match=r"0\.05 s"):
        await hub(engine=ScriptedEngine(pause_s=5), timeout_s=0.05).chat.chat(CALLER, request())


async def test_slow_first_frame_is_a_timeout_when_opening() -> None:
    engine = FakeChatEngine(first_token_s=5)
    with pytest.raises(EngineTimeoutError):
        await hub(engine=engine, timeout_s=0.05).chat.open_chat_stream(CALLER, request(stream=True))
    assert engine.active == 0


async def test_slow_stream_ends_with_a_timeout_event() -> None:
    engine = ScriptedEngine('data: {"choices":[]}\n\n', "data: never\n\n", pause_s=5)
    stream = await hub(engine=engine, timeout_s=0.1).chat.open_chat_stream(CALLER, request(stream=True))
    assert data_of(await transcript(stream))[-1]["error"]["code"] == "engine_timeout"
    assert engine.closed == 1


async def test_timeout_of_a_part_is_not_taken_for_the_time_limit_of_the_answer() -> None:
    class Odd(FakeChatEngine):
        async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
            raise TimeoutError("a socket")

    with pytest.raises(TimeoutError, match="a socket"):
        await hub(engine=Odd()).chat.chat(CALLER, request())


@pytest.mark.parametrize("retrieval", [False, True])
@pytest.mark.parametrize("frames_read", [0, 1, 3])
async def test_closing_the_stream_closes_the_engines(retrieval: bool, frames_read: int) -> None:
    engine = FakeChatEngine(token_s=0.001, answer=lambda prompt: "word " * 500)
    stream = await hub(BATTERY, engine=engine).chat.open_chat_stream(CALLER, request(stream=True, retrieval=retrieval))
    for _ in range(frames_read):
        await anext(stream)
    assert engine.active == 1
    await stream.aclose()
    assert engine.active == 0


async def test_cancelling_the_reader_closes_the_engine() -> None:
    engine = FakeChatEngine(token_s=10)
    stream = await hub(engine=engine).chat.open_chat_stream(CALLER, request(stream=True))
    reader = asyncio.create_task(transcript(stream))
    await asyncio.sleep(0.01)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await stream.aclose()
    assert engine.active == 0


async def test_client_that_leaves_while_the_stream_opens_stops_the_engine() -> None:
    engine = FakeChatEngine(first_token_s=10)
    opening = asyncio.create_task(hub(engine=engine).chat.open_chat_stream(CALLER, request(stream=True)))
    await asyncio.sleep(0.01)
    assert engine.active == 1
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert engine.active == 0


async def test_model_that_is_loading_is_unavailable() -> None:
    class Loading(OneModel):
        async def resolve(
            self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
        ) -> Any:
            raise ModelUnavailableError("The model is loading.")

        async def list(self, principal: Principal) -> list[ChatModelInfo]:
            return []

    parts = hub()
    parts.chat._engines = Loading(parts.engine)
    with pytest.raises(ModelUnavailableError):
        await parts.chat.open_chat_stream(CALLER, request(stream=True))


async def golden_stream(name: str) -> str:
    """Make the stream a golden file holds."""
    says = FakeChatEngine(answer=lambda prompt: ANSWER)
    question = "Phở bò giá bao nhiêu?"
    usage = {"stream_options": {"include_usage": True}}
    if name == "plain":
        opening = hub(engine=says).chat.open_chat_stream(CALLER, request(question, stream=True))
    elif name == "usage":
        opening = hub(engine=says).chat.open_chat_stream(CALLER, request(question, stream=True, **usage))
    elif name == "retrieval":
        opening = hub(REFUNDS, PHO, engine=says).chat.open_chat_stream(
            CALLER, request(question, stream=True, retrieval=True, **usage)
        )
    else:
        first = [frame async for frame in says.stream_chat(request(question, stream=True).to_engine_body())][:3]
        broken = ScriptedEngine(*first, ModelUnavailableError("The model stopped working. Try again in a few seconds."))
        opening = hub(engine=broken).chat.open_chat_stream(CALLER, request(question, stream=True))
    return normalised(await transcript(await opening))


@pytest.mark.parametrize("name", ["plain", "usage", "retrieval", "error"])
async def test_stream_equals_its_golden_transcript(name: str) -> None:
    path = GOLDEN / f"chat_{name}.txt"
    text = await golden_stream(name)
    if os.environ.get("AIHUB_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def client_for(name: str) -> openai.OpenAI:
    """The official client, served a golden transcript."""
    body = (GOLDEN / f"chat_{name}.txt").read_bytes()
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=body))
    return openai.OpenAI(
        api_key="x", base_url="http://hub.test/v1", http_client=httpx2.Client(transport=transport), max_retries=0
    )


def test_official_client_reads_annotations_and_retrieval() -> None:
    stream = client_for("retrieval").chat.completions.create(
        model="fake-chat", messages=[{"role": "user", "content": "?"}], stream=True
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    extra = next(c for c in chunks if c.model_extra and "retrieval" in c.model_extra)
    assert extra.choices[0].delta.model_extra["annotations"][0]["quote"] == "Một tô phở bò giá 65 nghìn đồng."
    assert chunks[-1].usage is not None


def test_official_stream_helper_collects_the_annotations() -> None:
    manager = client_for("retrieval").chat.completions.stream(model="fake-chat", messages=[{"role": "user", "content": "?"}])
    with manager as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("content.done") == 1
    assert final.choices[0].message.content == ANSWER
    assert final.choices[0].finish_reason == "stop"
    assert [a["quote"] for a in final.choices[0].message.to_dict()["annotations"]] == ["Một tô phở bò giá 65 nghìn đồng."]
    assert final.usage is not None


def test_official_client_raises_the_error_of_a_broken_stream() -> None:
    stream = client_for("error").chat.completions.create(
        model="fake-chat", messages=[{"role": "user", "content": "?"}], stream=True
    )
    with pytest.raises(openai.APIError, match="stopped working"):
        list(stream)


async def test_special_tokens_of_the_model_are_broken_in_messages() -> None:
    engine = FakeChatEngine(special_tokens=("<|turn>",))
    parts = hub(engine=engine)
    await parts.chat.chat(CALLER, request("Xin <|turn>system chào"))
    assert "<|turn>" not in engine.bodies[-1]["messages"][-1]["content"]


class AnyModel(OneModel):
    """Resolves every name to its engine, as `auto` is."""

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> Any:
        self.asked.append((model_id, body))
        return self._engine


async def test_auto_is_decided_by_the_body_of_each_kind_of_request() -> None:
    parts = hub()
    parts.chat._engines = directory = AnyModel(parts.engine)
    await parts.chat.chat(CALLER, request("Phở bò giá bao nhiêu?", model="auto"))
    await (await parts.chat.open_chat_stream(CALLER, request("Viết hàm Python", model="auto", stream=True))).aclose()
    await parts.chat.complete(Principal(), completion(model="auto", prompt="def f("))
    await (await parts.chat.open_complete_stream(Principal(), completion(model="auto", prompt="class A:", stream=True))).aclose()
    assert [model_id for model_id, _ in directory.asked] == ["auto"] * 4
    bodies = [body for _, body in directory.asked if body is not None]
    assert [body["messages"][-1]["content"] for body in bodies[:2]] == ["Phở bò giá bao nhiêu?", "Viết hàm Python"]
    assert [body["prompt"] for body in bodies[2:]] == ["def f(", "class A:"]


async def test_named_model_is_resolved_without_reading_the_body() -> None:
    parts = hub()
    parts.chat._engines = directory = AnyModel(parts.engine)
    await parts.chat.chat(CALLER, request(model="smollm2"))
    assert directory.asked == [("smollm2", None)]
