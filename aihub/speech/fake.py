"""A speech service without a model: it hears a fixed script at a fixed pace. For tests and local runs."""

import asyncio
import io
import itertools
import wave
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aihub.core.errors import HubError, ModelUnavailableError, NotFoundError, OverloadedError
from aihub.core.principal import Principal
from aihub.speech.service import (
    AUTO_MODEL,
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
    Word,
)

UNDECIDED_S = 3.0
"""Audio of a live stream after which `auto` is decided, where it may be several models."""
WORD_S = 0.25
PAUSE_S = 0.5
SCRIPTS = {
    "en": ("the shop opens at eight", "it closes at nine in the evening"),
    "vi": ("cửa hàng mở cửa lúc tám giờ", "đóng cửa lúc chín giờ tối"),
}
MODELS = (
    SpeechModelInfo("vosk:en", ("en",), 1_700_000_000),
    SpeechModelInfo("vosk:vi", ("vi",), 1_700_000_000),
)
_KEPT_OPTIONS = 100
_BYTES_PER_S = 32_000  # of 16 kHz, 16 bits, one channel


def spoken(text: str, *, start_s: float = 0.0, word_s: float = WORD_S, confidence: float = 0.9) -> Segment:
    """Return `text` as a segment whose words last `word_s` each."""
    words = tuple(
        Word(word, start_s + index * word_s, start_s + (index + 1) * word_s, confidence)
        for index, word in enumerate(text.split())
    )
    return Segment(text, start_s, start_s + len(words) * word_s, words)


def duration_of(audio: bytes) -> float:
    """Return the seconds of a WAV file; anything else counts as bare samples of 16 kHz, 16 bits and one channel."""
    try:
        with wave.open(io.BytesIO(audio)) as file:
            return float(file.getnframes() / file.getframerate())
    except (wave.Error, EOFError, ZeroDivisionError):
        return len(audio) / _BYTES_PER_S


class FakeSpeech:
    """Satisfies `SpeechService`: the longer the audio, the more of the script is heard; files and live streams hear the same.

    Args:
        script: Sentences, one after the other from the start of the audio, then silence. When None, those of `SCRIPTS` for the
            model's language, again and again.
        hear: Makes the segments of a file from its bytes; replaces the script for files.
        word_s: Length of a word.
        pause_s: Silence after a sentence, which ends it.
        delay_s: Wait before each segment of a file and each answer of a live stream.
        max_streams: Live streams at a time.

    Attributes:
        models_here: What is installed; may be replaced.
        active: Files being transcribed now; back to 0 when every client has got its answer or left.
        options: Options of the requests received, newest last.
        streams: Live streams by id.
        error: Raised by every call that transcribes while set.
    """

    def __init__(
        self,
        *,
        script: Sequence[str] | None = None,
        hear: Callable[[bytes], Sequence[Segment]] | None = None,
        word_s: float = WORD_S,
        pause_s: float = PAUSE_S,
        delay_s: float = 0.0,
        max_streams: int = 8,
    ) -> None:
        self._script = script
        self._hear = hear
        self._word_s = word_s
        self._pause_s = pause_s
        self._delay_s = delay_s
        self._max_streams = max_streams
        self._opened = 0
        self.models_here: tuple[SpeechModelInfo, ...] = MODELS
        self.active = 0
        self.options: deque[RecognitionOptions | LiveOptions] = deque(maxlen=_KEPT_OPTIONS)
        self.streams: dict[str, FakeStream] = {}
        self.error: HubError | None = None

    async def models(self) -> list[SpeechModelInfo]:
        return list(self.models_here)

    async def transcribe(self, principal: Principal, audio: bytes, options: RecognitionOptions) -> Transcript:
        segments: list[Segment] = []
        model_id, language, duration_s = "", "", 0.0
        async for event in self.stream_transcription(principal, audio, options):
            if isinstance(event, TranscriptionStart):
                model_id, language = event.model_id, event.language
            elif isinstance(event, TranscriptionProgress) and event.segment is not None:
                segments.append(event.segment)
            elif isinstance(event, TranscriptionEnd):
                duration_s = event.duration_s
        return Transcript(model_id, language, duration_s, tuple(segments))

    async def stream_transcription(
        self, principal: Principal, audio: bytes, options: RecognitionOptions
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        model = self._find(options)
        duration_s = duration_of(audio)
        with self._work(options):
            yield TranscriptionStart(model.model_id, model.languages[0], duration_s)
            segments = self._timeline(model, duration_s) if self._hear is None else self._hear(audio)
            for segment in segments:
                await asyncio.sleep(self._delay_s)
                yield TranscriptionProgress(segment, segment.end_s)
            yield TranscriptionEnd(duration_s)

    async def open_stream(self, principal: Principal, options: LiveOptions) -> LiveStream:
        model = self._find(options.recognition)
        is_open_choice = options.recognition.model == AUTO_MODEL and len(self._heard_by(options.recognition.language)) > 1
        if self.error is not None:
            raise self.error
        if len(self.streams) >= self._max_streams:
            raise OverloadedError("All places for live streams are taken. Try again in a moment.")
        self._opened += 1
        self.options.append(options)
        stream_id = f"stream-{self._opened}"
        stream = FakeStream(self._sentences(model), options, self._pause_s, model, UNDECIDED_S if is_open_choice else 0.0)
        self.streams[stream_id] = stream
        return LiveStream(stream_id, *stream.told_model)

    async def feed(self, principal: Principal, stream_id: str, audio: bytes) -> LiveResult:
        stream = self._stream(stream_id)
        await asyncio.sleep(self._delay_s)
        return stream.hear(audio)

    async def finish(self, principal: Principal, stream_id: str) -> LiveResult:
        stream = self._stream(stream_id)
        await asyncio.sleep(self._delay_s)
        self.streams.pop(stream_id, None)
        return stream.end()

    async def close(self, principal: Principal, stream_id: str) -> None:
        self.streams.pop(stream_id, None)

    def _stream(self, stream_id: str) -> "FakeStream":
        if self.error is not None:
            raise self.error
        stream = self.streams.get(stream_id)
        if stream is None:
            raise NotFoundError("The live stream has ended. Open a new one.", code="stream_not_found")
        return stream

    def _find(self, options: RecognitionOptions) -> SpeechModelInfo:
        named = ", ".join(model.model_id for model in self.models_here)
        if not named:
            raise ModelUnavailableError("No speech model is installed. Install one: aihub models download vosk:vi")
        if options.model == AUTO_MODEL:
            for model in self._heard_by(options.language):
                return model
            raise ModelUnavailableError(
                f"No speech model for {options.language!r} is installed; installed: {named}. "
                f"Install one: aihub models download vosk:{options.language}"
            )
        for model in self.models_here:
            if model.model_id == options.model:
                return model
        raise NotFoundError(
            f"The speech model {options.model!r} is not installed. Installed: {named}; or send 'auto'.",
            param="model",
            code="model_not_found",
        )

    def _heard_by(self, language: str | None) -> list[SpeechModelInfo]:
        return [model for model in self.models_here if language is None or language in model.languages]

    def _sentences(self, model: SpeechModelInfo) -> Iterator[Segment]:
        script = self._script
        texts = itertools.cycle(SCRIPTS.get(model.languages[0], SCRIPTS["en"])) if script is None else script
        start_s = 0.0
        for text in texts:
            segment = spoken(text, start_s=start_s, word_s=self._word_s)
            yield segment
            start_s = segment.end_s + self._pause_s

    def _timeline(self, model: SpeechModelInfo, duration_s: float) -> Iterator[Segment]:
        for segment in self._sentences(model):
            words = tuple(word for word in segment.words if word.end_s <= duration_s)
            if not words:
                return
            yield Segment(" ".join(word.text for word in words), words[0].start_s, words[-1].end_s, words)

    @contextmanager
    def _work(self, options: RecognitionOptions) -> Iterator[None]:
        if self.error is not None:
            raise self.error
        self.options.append(options)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1


@dataclass
class FakeStream:
    """A live stream: what was heard so far of a script."""

    sentences: Iterator[Segment]
    options: LiveOptions
    pause_s: float
    model: SpeechModelInfo
    undecided_s: float = 0.0
    heard_bytes: int = 0

    def __post_init__(self) -> None:
        self._current = next(self.sentences, None)

    def hear(self, audio: bytes) -> LiveResult:
        """Go on by the length of `audio`."""
        self.heard_bytes += len(audio)
        if self._heard_s < self.undecided_s:
            return LiveResult(partial={"partial": ""})
        self.undecided_s = 0.0
        finals = self._take_finals()
        return LiveResult(finals, None if finals else self._partial(), *self.told_model)

    def end(self) -> LiveResult:
        """Return what was not told yet, and the last final."""
        self.undecided_s = 0.0
        return LiveResult((*self._take_finals(), self._final(self._open_words())), None, *self.told_model)

    @property
    def told_model(self) -> tuple[str, str] | tuple[None, None]:
        """Key and language of the model; of an open choice, once enough was heard."""
        return (None, None) if self.undecided_s else (self.model.model_id, self.model.languages[0])

    def _take_finals(self) -> tuple[dict[str, Any], ...]:
        finals: list[dict[str, Any]] = []
        while self._current is not None and self._current.end_s + self.pause_s <= self._heard_s:
            finals.append(self._final(self._current.words))
            self._current = next(self.sentences, None)
        return tuple(finals)

    @property
    def _heard_s(self) -> float:
        rate = self.options.sample_rate if self.options.encoding == "pcm_s16le" else _BYTES_PER_S // 2
        return self.heard_bytes / (2 * rate)

    def _open_words(self) -> tuple[Word, ...]:
        return tuple(word for word in self._current.words if word.end_s <= self._heard_s) if self._current is not None else ()

    def _partial(self) -> dict[str, Any]:
        words = self._open_words()
        partial: dict[str, Any] = {"partial": " ".join(word.text for word in words)}
        return partial | ({"partial_result": [_as_vosk(word) for word in words]} if self.options.partial_words and words else {})

    def _final(self, words: tuple[Word, ...]) -> dict[str, Any]:
        text = " ".join(word.text for word in words)
        listed = [_as_vosk(word) for word in words]
        has_words = self.options.words and bool(listed)
        if not self.options.max_alternatives:
            return ({"result": listed} if has_words else {}) | {"text": text}
        timed = [{key: value for key, value in word.items() if key != "conf"} for word in listed]
        best: dict[str, Any] = {"confidence": 100.0} | ({"result": timed} if has_words else {}) | {"text": text}
        return {"alternatives": [best]}


def _as_vosk(word: Word) -> dict[str, Any]:
    return {"conf": word.confidence, "end": word.end_s, "start": word.start_s, "word": word.text}
