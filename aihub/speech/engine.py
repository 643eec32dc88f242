"""`SpeechEngine`: the `SpeechService` that recognises with Vosk on this machine."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from aihub.core.errors import InvalidRequestError, OverloadedError
from aihub.core.principal import Principal
from aihub.media.service import MediaDecoder
from aihub.speech.cutting import BYTES_PER_S, CutOptions
from aihub.speech.language_choice import choose_by_hearing, read_beginning
from aihub.speech.live import LiveLimits, LiveStreams
from aihub.speech.metrics import SpeechMetrics
from aihub.speech.models import SpeechModel, SpeechModels
from aihub.speech.parallel import ParallelHearing
from aihub.speech.places import Places
from aihub.speech.recognition.options import RecogniserLimits
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.service import (
    AUTO_MODEL,
    MAX_PHRASE_CHARS,
    MAX_PHRASES,
    LiveOptions,
    LiveResult,
    LiveStream,
    RecognitionOptions,
    Segment,
    SpeechModelInfo,
    Transcript,
    TranscriptionEnd,
    TranscriptionEvent,
    TranscriptionProgress,
    TranscriptionStart,
)
from aihub.speech.settings import SpeechSettings

_SECONDS_PER_WAITING_FILE = 5


@dataclass(frozen=True, slots=True)
class SpeechPlaces:
    """How much is heard at a time.

    Attributes:
        parallel_parts: Parts of files, of all requests; one more where it is the first of its file.
        max_streams: Live streams.
    """

    parallel_parts: int
    max_streams: int


class SpeechEngine:
    """Recognises files and live streams. Implements `SpeechService`; shut it down at the end.

    Args:
        models: Which are installed.
        decoder: Decodes files; as many at a time as may be transcribed or wait, since each holds one until it is heard.
        live_decoder: Decodes live streams of files, each of which takes a decoder from its start to its end; `decoder` when None.
        settings: Limits.
        places: How much is heard at a time.
        metrics: What is counted; new ones when None.
    """

    def __init__(
        self,
        models: SpeechModels,
        decoder: MediaDecoder,
        settings: SpeechSettings,
        places: SpeechPlaces,
        metrics: SpeechMetrics | None = None,
        *,
        live_decoder: MediaDecoder | None = None,
    ) -> None:
        self._models = models
        self._decoder = decoder
        self._settings = settings
        self._metrics = metrics = metrics or SpeechMetrics()
        limits = RecogniserLimits(memory_mb=settings.memory_mb, answer_timeout_s=settings.answer_timeout_s)
        self.pool = RecogniserPool(
            limits,
            rest_after_s=settings.rest_after_s,
            died=lambda exit_code: metrics.deaths.labels(str(exit_code)).inc(),
        )
        metrics.loaded_models.set_function(lambda: len(self.pool.loaded()))
        self._places = Places(places.parallel_parts)
        self._files = 0
        self._live = LiveStreams(
            self.pool,
            live_decoder or decoder,
            LiveLimits(places.max_streams, settings.stream_idle_s, settings.max_audio_s),
            changed=metrics.open_streams.set,
            heard=lambda model, seconds: metrics.audio_seconds.labels(model, "live").inc(seconds),
        )

    async def shut_down(self) -> None:
        """End all processes; requests under way fail."""
        await self._live.close_all()
        await self.pool.close()

    async def models(self) -> list[SpeechModelInfo]:
        """Return the installed models, by key."""
        return [model.info for model in await self._installed()]

    async def transcribe(self, principal: Principal, audio: bytes, options: RecognitionOptions) -> Transcript:
        """Transcribe a file; see `SpeechService`."""
        segments: list[Segment] = []
        start = TranscriptionStart("", "", None)
        duration_s = 0.0
        async with aclosing(self._transcribe(audio, options, with_duration=False)) as events:
            async for event in events:
                match event:
                    case TranscriptionStart():
                        start = event
                    case TranscriptionProgress(segment=Segment() as segment):
                        segments.append(segment)
                    case TranscriptionEnd():
                        duration_s = event.duration_s
        return Transcript(start.model_id, start.language, duration_s, tuple(segments))

    async def stream_transcription(
        self, principal: Principal, audio: bytes, options: RecognitionOptions
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        """Transcribe a file and yield what is heard; see `SpeechService`."""
        async with aclosing(self._transcribe(audio, options, with_duration=True)) as events:
            async for event in events:
                yield event

    async def open_stream(self, principal: Principal, options: LiveOptions) -> LiveStream:
        """Begin a live stream; see `SpeechService`.

        `auto` is the operator's choice, if there is one; otherwise the models of the language hear the beginning and one goes on.
        """
        wanted = options.recognition
        is_auto = wanted.model.lower() == AUTO_MODEL
        name = self._settings.live_model if is_auto and self._settings.live_model else wanted.model
        candidates = self._models.choose(await self._installed(), name, wanted.language)
        return await self._live.open(principal, _check_phrases(candidates, wanted.phrases), options)

    async def feed(self, principal: Principal, stream_id: str, audio: bytes) -> LiveResult:
        """Hear the next piece; see `SpeechService`."""
        return await self._live.feed(principal, stream_id, audio)

    async def finish(self, principal: Principal, stream_id: str) -> LiveResult:
        """End a live stream; see `SpeechService`."""
        return await self._live.finish(principal, stream_id)

    async def close(self, principal: Principal, stream_id: str) -> None:
        """Give a live stream up; see `SpeechService.close`."""
        await self._live.close(principal, stream_id)

    async def _installed(self) -> list[SpeechModel]:
        return await asyncio.to_thread(self._models.find)

    async def _transcribe(
        self, audio: bytes, options: RecognitionOptions, *, with_duration: bool
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        candidates = self._models.choose(await self._installed(), options.model, options.language)
        candidates = _check_phrases(candidates, options.phrases)
        if self._files >= self._settings.max_waiting_files:
            raise OverloadedError(
                f"{self._files} files are being transcribed or wait already. Retry in some seconds.",
                retry_after_s=_SECONDS_PER_WAITING_FILE,
            )
        self._files += 1
        self._metrics.files.set(self._files)
        started_s = time.monotonic()
        model_id = ""
        try:
            duration_s = (await self._decoder.probe(audio)).duration_s if with_duration else None
            async with aclosing(self._hear(audio, candidates, options.phrases, duration_s)) as events:
                async for event in events:
                    if isinstance(event, TranscriptionStart):
                        model_id = event.model_id
                    if isinstance(event, TranscriptionEnd):
                        self._count(model_id, event.duration_s, time.monotonic() - started_s)
                    yield event
        finally:
            self._files -= 1
            self._metrics.files.set(self._files)

    async def _hear(
        self, audio: bytes, candidates: list[SpeechModel], phrases: tuple[str, ...], duration_s: float | None
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        async with aclosing(self._decoder.decode_audio(audio, max_duration_s=self._settings.max_audio_s)) as pieces:
            model, source = candidates[0], aiter(pieces)
            if len(candidates) > 1:
                beginning = await read_beginning(source)
                trial = await choose_by_hearing(self.pool, self._places, candidates, phrases, beginning)
                model = trial.model
                source = _chain(beginning.audio, source)
                if beginning.is_all:
                    heard_s = len(beginning.audio) / BYTES_PER_S
                    yield TranscriptionStart(model.info.model_id, model.language, duration_s)
                    for segment in trial.segments:
                        yield TranscriptionProgress(segment, segment.end_s)
                    yield TranscriptionEnd(heard_s)
                    return
            yield TranscriptionStart(model.info.model_id, model.language, duration_s)
            cuts = CutOptions(whole_s=self._settings.whole_audio_s)
            hearing = ParallelHearing(self.pool, self._places, model.folder, phrases, cuts)
            async with aclosing(hearing.run(source)) as events:
                async for event in events:
                    yield event

    def _count(self, model_id: str, audio_s: float, took_s: float) -> None:
        self._metrics.audio_seconds.labels(model_id, "file").inc(audio_s)
        if audio_s > 0:
            self._metrics.real_time_factor.labels(model_id).observe(took_s / audio_s)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    if first:
        yield first
    async for piece in rest:
        yield piece


def _check_phrases(candidates: list[SpeechModel], phrases: tuple[str, ...]) -> list[SpeechModel]:
    """Return the models that take phrases; all where there are none.

    Raises:
        InvalidRequestError: No model takes them, or there are too many.
    """
    if not phrases:
        return candidates
    if len(phrases) > MAX_PHRASES or any(not phrase.strip() or len(phrase) > MAX_PHRASE_CHARS for phrase in phrases):
        raise InvalidRequestError(
            f"Give at most {MAX_PHRASES} phrases, each of 1 to {MAX_PHRASE_CHARS} characters.", param="phrases"
        )
    able = [model for model in candidates if model.takes_phrases]
    if not able:
        raise InvalidRequestError(
            f"The model {candidates[0].info.model_id} cannot be given phrases: its graph is fixed. Leave them out, or use a "
            "model with a dynamic graph, such as Vosk's small ones.",
            param="phrases",
        )
    return able
