"""Transcriptions and live streams hold one of the key's streams while they last."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from aihub.core.errors import NotFoundError, RateLimitError
from aihub.speech.fake import FakeSpeech
from aihub.speech.service import LiveOptions, RecognitionOptions
from pipelines.limited_speech import LimitedSpeech
from tests.unit.accounts.limit_parts import caller, limiter

OPTIONS = RecognitionOptions()


@pytest.fixture
def pcm() -> bytes:
    """A second of silence."""
    return bytes(32_000)


@pytest.fixture
async def speech() -> AsyncIterator[LimitedSpeech]:
    async with limiter(None) as limits:
        yield LimitedSpeech(FakeSpeech(), limits)


async def test_a_live_stream_is_one_until_it_ends(speech: LimitedSpeech, pcm: bytes) -> None:
    asking = caller(streams=1)
    first = await speech.open_stream(asking, LiveOptions())
    for work in (speech.open_stream(asking, LiveOptions()), speech.transcribe(asking, pcm, OPTIONS)):
        with pytest.raises(RateLimitError, match="1 streams"):
            await work
    await speech.feed(asking, first.stream_id, pcm)
    await speech.finish(asking, first.stream_id)
    second = await speech.open_stream(asking, LiveOptions())
    await speech.close(asking, second.stream_id)
    await speech.close(asking, second.stream_id)
    assert (await speech.transcribe(asking, pcm, OPTIONS)).duration_s >= 0


async def test_a_live_stream_that_the_speech_service_has_lost_is_free_again(speech: LimitedSpeech, pcm: bytes) -> None:
    asking = caller(streams=1)
    stream = await speech.open_stream(asking, LiveOptions())
    await speech._speech.close(asking, stream.stream_id)
    with pytest.raises(NotFoundError):
        await speech.finish(asking, stream.stream_id)
    await speech.open_stream(asking, LiveOptions())


async def test_a_streamed_transcription_is_one_until_it_is_closed(speech: LimitedSpeech, pcm: bytes) -> None:
    asking = caller(streams=1)
    async with aclosing(speech.stream_transcription(asking, pcm, OPTIONS)) as events:
        await anext(events)
        with pytest.raises(RateLimitError):
            await speech.transcribe(asking, pcm, OPTIONS)
    await speech.transcribe(asking, pcm, OPTIONS)


async def test_a_transcription_that_is_cancelled_gives_its_stream_back(
    speech: LimitedSpeech, pcm: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = caller(streams=1)

    async def slowly(*_: object) -> None:
        await asyncio.sleep(10)

    with monkeypatch.context() as patched:
        patched.setattr(speech._speech, "transcribe", slowly)
        task = asyncio.create_task(speech.transcribe(asking, pcm, OPTIONS))
        await asyncio.sleep(0.01)
        with pytest.raises(RateLimitError):
            await speech.transcribe(asking, pcm, OPTIONS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await speech.transcribe(asking, pcm, OPTIONS)
