"""Whatever a client of the websocket sends, it is answered or refused in the hub's own words."""

import asyncio
import json
from typing import Any, Never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aihub.core.errors import InvalidRequestError, UnavailableError
from aihub.core.principal import Principal
from aihub.speech.fake import FakeSpeech
from aihub.speech.live_session import LiveSession, join_finals
from aihub.speech.schemas import LiveConfig

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CONFIGS = st.dictionaries(st.sampled_from([*LiveConfig.model_fields]) | st.text(max_size=5), VALUES, max_size=4)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.dictionaries(st.sampled_from(["config", "eof", "reset", "other"]), VALUES, max_size=2).map(json.dumps),
    CONFIGS.map(lambda config: json.dumps({"config": config})),
)
MESSAGES = st.lists(TEXTS | st.binary(max_size=64), max_size=6)


@given(MESSAGES)
@settings(max_examples=150)
async def test_any_messages_end_in_answers_or_a_typed_refusal_and_free_the_place(messages: list[str | bytes]) -> None:
    speech = FakeSpeech()
    session = LiveSession(speech, Principal())
    try:
        for message in messages:
            if session.is_finished:
                break
            answer = await session.hear(message) if isinstance(message, bytes) else await session.obey(message)
            assert answer is None or {"partial", "text", "alternatives"} & set(answer)
    except InvalidRequestError as error:
        assert error.message
    await session.aclose()
    assert speech.streams == {}


async def test_connection_cancelled_twice_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    speech = FakeSpeech()
    close, closing = speech.close, asyncio.Event()

    async def close_slowly(principal: Principal, stream_id: str) -> None:
        closing.set()
        await asyncio.sleep(0.02)
        await close(principal, stream_id)

    monkeypatch.setattr(speech, "close", close_slowly)
    session = LiveSession(speech, Principal())
    await session.hear(bytes(100))
    ending = asyncio.create_task(session.aclose())
    await closing.wait()
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    assert ending.cancelled()
    assert speech.streams == {}


async def test_place_that_cannot_be_given_back_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    speech = FakeSpeech()

    async def close(*_: Any) -> Never:
        raise UnavailableError("The speech service is away.")

    session = LiveSession(speech, Principal())
    await session.hear(bytes(100))
    speech.close = close
    with caplog.at_level("INFO"):
        await session.aclose()
    assert "The speech service is away." in caplog.text


def word(text: str) -> dict[str, Any]:
    return {"word": text, "start": 0.0, "end": 1.0, "conf": 1.0}


def test_finals_of_one_frame_are_joined_with_their_words() -> None:
    finals = [{"text": "xin", "result": [word("xin")]}, {"text": ""}, {"text": "chào", "result": [word("chào")]}]
    assert join_finals(finals) == {"text": "xin chào", "result": [word("xin"), word("chào")]}


def test_alternatives_of_one_frame_are_joined_rank_by_rank() -> None:
    first = {"alternatives": [{"confidence": 9.0, "text": "a"}, {"confidence": 5.0, "text": "b"}]}
    second = {"alternatives": [{"confidence": 7.0, "text": "c", "result": [word("c")]}]}
    assert join_finals([first, second]) == {
        "alternatives": [
            {"confidence": 7.0, "text": "a c", "result": [word("c")]},
            {"confidence": 5.0, "text": "b c", "result": [word("c")]},
        ]
    }
