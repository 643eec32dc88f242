"""The official `openai` client against the API on a real socket."""

import threading
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from aihub.core.errors import OverloadedError
from tests.unit.conftest import LiveServer

USER = {"role": "user", "content": "Xin chào"}


@pytest.fixture
def hub(server: LiveServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat_is_answered(hub: OpenAI) -> None:
    answer = hub.chat.completions.create(model="fake-chat", messages=[USER])
    assert answer.choices[0].message.content == "You said: Xin chào"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer._request_id is not None


def test_chat_limit_cuts_the_answer(hub: OpenAI) -> None:
    answer = hub.chat.completions.create(model="fake-chat", messages=[USER], max_completion_tokens=2)
    assert answer.choices[0].message.content == "You said:"
    assert answer.choices[0].finish_reason == "length"


def test_chat_streams_with_usage(hub: OpenAI) -> None:
    stream = hub.chat.completions.create(model="fake-chat", messages=[USER], stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "You said: Xin chào"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6


def test_stream_helper_gives_the_whole_answer(hub: OpenAI) -> None:
    with hub.chat.completions.stream(model="fake-chat", messages=[USER]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "You said: Xin chào"


def test_two_choices_stream_side_by_side(hub: OpenAI) -> None:
    stream = hub.chat.completions.create(model="fake-chat", messages=[USER], stream=True, n=2)
    texts = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["You said: Xin chào"] * 2


async def test_async_chat_and_stream(server: LiveServer) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as hub:
        answer = await hub.chat.completions.create(model="fake-chat", messages=[USER])
        assert answer.choices[0].message.content == "You said: Xin chào"
        stream = await hub.chat.completions.create(model="fake-chat", messages=[USER], stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == "You said: Xin chào"


def test_completion_and_its_stream(hub: OpenAI) -> None:
    answer = hub.completions.create(model="fake-chat", prompt="Một hai", max_tokens=8)
    assert answer.choices[0].text == "You said: Một hai"
    stream = hub.completions.create(model="fake-chat", prompt="Một hai", max_tokens=8, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "You said: Một hai"


def test_embeddings_are_the_same_as_numbers_and_as_base64(hub: OpenAI) -> None:
    texts = ["xin chào", "áo dài", "a"]
    as_base64 = hub.embeddings.create(model="fake-embedder", input=texts)
    as_numbers = hub.embeddings.create(model="fake-embedder", input=texts, encoding_format="float")
    assert [item.index for item in as_base64.data] == [0, 1, 2]
    assert [item.embedding for item in as_base64.data] == [item.embedding for item in as_numbers.data]
    assert as_numbers.data[0].embedding == [1.0, 0.0, 0.0, 0.0]


def test_models_are_listed_and_found(hub: OpenAI) -> None:
    assert [model.id for model in hub.models.list()] == ["fake-chat", "fake-embedder", "vosk:en", "vosk:vi"]
    assert hub.models.retrieve("fake-chat").owned_by == "aihub"
    with pytest.raises(openai.NotFoundError):
        hub.models.retrieve("org/other-model")


def test_errors_become_the_client_s_own_exceptions(hub: OpenAI, server: LiveServer) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        hub.chat.completions.create(model="fake-chat", messages=[USER], temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        hub.chat.completions.create(model="other", messages=[USER])
    assert missing.value.code == "model_not_found"
    server.parts.engine.error = OverloadedError("The model is busy.")
    try:
        with pytest.raises(openai.InternalServerError) as busy:
            hub.chat.completions.create(model="fake-chat", messages=[USER])
    finally:
        server.parts.engine.error = None
    assert busy.value.status_code == 503
    assert busy.value.code == "overloaded"


def test_client_retries_by_itself_after_503(server: LiveServer) -> None:
    server.parts.engine.error = OverloadedError("The model is busy.")
    threading.Timer(0.5, lambda: setattr(server.parts.engine, "error", None)).start()
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=3) as hub:
        answer = hub.chat.completions.create(model="fake-chat", messages=[USER])
    assert answer.choices[0].message.content == "You said: Xin chào"
