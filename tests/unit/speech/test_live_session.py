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
from aihub.speech.live_session import LiveSession
from aihub.speech.schemas import LiveConfig
from aihub.speech.service import LiveOptions

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


async def test_model_that_heard_words_goes_on_after_a_reset_until_a_config_asks_again() -> None:
    speech = FakeSpeech()
    session = LiveSession(speech, Principal())

    async def model_asked_for(audio: bytes) -> str:
        await session.hear(audio)
        await session.obey('{"reset": 1}')
        options = speech.options[-1]
        assert isinstance(options, LiveOptions)
        return options.recognition.model

    assert await model_asked_for(bytes(160)) == "auto"
    assert await model_asked_for(bytes(16_000)) == "auto"  # nothing was heard in the first
    assert await model_asked_for(bytes(16_000)) == "vosk:en"
    await session.obey('{"config": {"language": "vi"}}')
    assert await model_asked_for(bytes(16_000)) == "auto"
    await session.aclose()
