"""Speech within the limits of keys: a transcription and a live stream each hold one of the key's streams while they last."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aihub.accounts.service import RateLimiter, Reservation, reserved
from aihub.core.principal import Principal
from aihub.speech.service import (
    LiveOptions,
    LiveResult,
    LiveStream,
    RecognitionOptions,
    SpeechModelInfo,
    SpeechService,
    Transcript,
    TranscriptionEvent,
)


class LimitedSpeech:
    """Implements `aihub.speech.service.SpeechService` around another one.

    Raises:
        RateLimitError: From whatever begins to hear, where the key has no stream left.
    """

    def __init__(self, speech: SpeechService, limiter: RateLimiter) -> None:
        self._speech = speech
        self._limiter = limiter
        self._open: dict[str, Reservation] = {}

    async def models(self) -> list[SpeechModelInfo]:
        return await self._speech.models()

    async def transcribe(self, principal: Principal, audio: bytes, options: RecognitionOptions) -> Transcript:
        async with reserved(self._limiter, principal, is_stream=True):
            return await self._speech.transcribe(principal, audio, options)

    async def stream_transcription(
        self, principal: Principal, audio: bytes, options: RecognitionOptions
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        async with (
            reserved(self._limiter, principal, is_stream=True),
            aclosing(self._speech.stream_transcription(principal, audio, options)) as events,
        ):
            async for event in events:
                yield event

    async def open_stream(self, principal: Principal, options: LiveOptions) -> LiveStream:
        reservation = await self._limiter.reserve(principal, is_stream=True)
        try:
            stream = await self._speech.open_stream(principal, options)
        except BaseException:
            reservation.settle(0)
            raise
        self._open[stream.stream_id] = reservation
        return stream

    async def feed(self, principal: Principal, stream_id: str, audio: bytes) -> LiveResult:
        return await self._speech.feed(principal, stream_id, audio)

    async def finish(self, principal: Principal, stream_id: str) -> LiveResult:
        try:
            return await self._speech.finish(principal, stream_id)
        finally:
            self._release(stream_id)

    async def close(self, principal: Principal, stream_id: str) -> None:
        try:
            await self._speech.close(principal, stream_id)
        finally:
            self._release(stream_id)

    def _release(self, stream_id: str) -> None:
        reservation = self._open.pop(stream_id, None)
        if reservation is not None:
            reservation.settle(0)
