"""Speech recognition as routes and pipelines see it. Like all services: principal first, `HubError` only.

The `speech` application (`deployments/speech.py`) and the fake (`aihub/speech/fake.py`) satisfy `SpeechService`; one suite in
`tests/contract` runs on the fake and on the engine with real models.
"""

import unicodedata
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from aihub.core.principal import Principal

AUTO_MODEL = "auto"
MAX_PHRASES = 1000
MAX_PHRASE_CHARS = 200


def as_written(phrase: str) -> str:
    """Return a phrase as models write theirs: letters with their marks as one character (NFC), single blanks."""
    return " ".join(unicodedata.normalize("NFC", phrase).split())


@dataclass(frozen=True, slots=True)
class SpeechModelInfo:
    """An installed speech model.

    Attributes:
        model_id: Its key, as clients send it: `vosk:vi`.
        languages: ISO 639-1 codes.
        created: Unix seconds of its installation.
    """

    model_id: str
    languages: tuple[str, ...]
    created: int


@dataclass(frozen=True, slots=True)
class Word:
    """A word; times in seconds from the start of the audio, `confidence` from 0 to 1."""

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Segment:
    """What was said between two pauses."""

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] = ()

    @property
    def confidence(self) -> float:
        """Mean over the words; 0 without any."""
        return sum(word.confidence for word in self.words) / len(self.words) if self.words else 0.0


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that was said.

    Attributes:
        language: ISO 639-1 code of the model that heard it.
        duration_s: Of the audio.
    """

    model_id: str
    language: str
    duration_s: float
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The segments as one line."""
        return " ".join(segment.text for segment in self.segments if segment.text)


@dataclass(frozen=True, slots=True)
class RecognitionOptions:
    """How a file is transcribed.

    Attributes:
        model: Key of an installed speech model, or `auto`.
        language: ISO 639-1 code; with `auto`, the only language whose models are tried.
        phrases: Words and phrases to listen for, kept as `as_written` gives them; nothing else is recognised then, but for
            `[unk]`.
    """

    model: str = AUTO_MODEL
    language: str | None = None
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "phrases", tuple(map(as_written, self.phrases)))


@dataclass(frozen=True, slots=True)
class TranscriptionStart:
    """First event: which model listens. `duration_s` is None where the header does not say."""

    model_id: str
    language: str
    duration_s: float | None


@dataclass(frozen=True, slots=True)
class TranscriptionProgress:
    """A segment was heard (None: only time passed), and everything before `done_s` is transcribed."""

    segment: Segment | None
    done_s: float


@dataclass(frozen=True, slots=True)
class TranscriptionEnd:
    """Last event."""

    duration_s: float


TranscriptionEvent = TranscriptionStart | TranscriptionProgress | TranscriptionEnd


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a live stream is heard; the names are those of the vosk-server protocol's config where it has them.

    Attributes:
        encoding: `pcm_s16le` is bare samples of one channel; `container` is any file that is decoded here, while it comes in.
        sample_rate: In Hz, of bare samples.
        words: Whether finals carry words with times and confidences.
        max_alternatives: 0 gives one result; more give that many, without confidences of words.
    """

    recognition: RecognitionOptions = field(default_factory=RecognitionOptions)
    encoding: Literal["pcm_s16le", "container"] = "pcm_s16le"
    sample_rate: int = 16_000
    words: bool = True
    partial_words: bool = False
    max_alternatives: int = 0


@dataclass(frozen=True, slots=True)
class VoiceQuestion:
    """What a spoken question is asked with.

    Attributes:
        recognition: How it is heard.
        chat: Fields of the chat request that answers it, as JSON values or as the texts of a form, and not yet validated;
            `messages` are the turns before.
        early_retrieval: Whether sources are searched for while the speech still arrives. The answer is the same without.
    """

    recognition: RecognitionOptions
    chat: dict[str, Any]
    early_retrieval: bool = True


@dataclass(frozen=True, slots=True)
class LiveStream:
    """An open live stream.

    Attributes:
        model_id: Of the model that hears it; None while several do, until the first words tell the language.
        language: ISO 639-1 code of that model; None as `model_id`.
    """

    stream_id: str
    model_id: str | None
    language: str | None


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What a piece of audio brought.

    Attributes:
        finals: Vosk's own result objects (`text`, `result` with `word`, `start`, `end`, `conf`) of utterances that ended, oldest
            first.
        partial: Vosk's own partial object (`partial`) of the utterance under way; None when the last thing was a final.
        model_id: As of `LiveStream`. While it is None, there are no finals and the partial is empty; the finals of the beginning
            come with the first result that tells it. What `finish` returns always does.
        language: As of `LiveStream`.
    """

    finals: tuple[dict[str, Any], ...] = ()
    partial: dict[str, Any] | None = None
    model_id: str | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class KnownSpeechModel:
    """A speech model that can be installed: its key, its name in the catalogue, its languages (ISO 639-1)."""

    key: str
    model_id: str
    languages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SpeechModelFolder:
    """Where an installed speech model lies; `installed_at` in Unix seconds."""

    key: str
    folder: Path
    installed_at: float


class SpeechModelStore(Protocol):
    """The speech models of this machine."""

    def find(self) -> list[SpeechModelFolder]:
        """Return what is installed now, by key; blocking, as it reads the disk."""
        ...

    def known(self) -> Sequence[KnownSpeechModel]:
        """Return what can be installed."""
        ...


class SpeechService(Protocol):
    """Transcribes files and live streams.

    Every method raises `InvalidRequestError` children for what is wrong with the request or the audio, `ModelUnavailableError`
    where no fitting model is installed (the message names the command that installs one), `OverloadedError` where all places are
    taken, and `UnavailableError` where a recogniser died: that request is lost, the next one works.
    """

    async def models(self) -> list[SpeechModelInfo]: ...

    async def transcribe(self, principal: Principal, audio: bytes, options: RecognitionOptions) -> Transcript:
        """Transcribe a file of any format that `aihub.media` reads."""
        ...

    def stream_transcription(
        self, principal: Principal, audio: bytes, options: RecognitionOptions
    ) -> AsyncGenerator[TranscriptionEvent, None]:
        """Transcribe a file and yield what is heard in order; closing the generator ends the work."""
        ...

    async def open_stream(self, principal: Principal, options: LiveOptions) -> LiveStream:
        """Begin a live stream, which holds a place until `finish` or `close`, or until nothing is fed for a while.

        Where `auto` may be several models, all hear its beginning, and the one that hears it best goes on.
        """
        ...

    async def feed(self, principal: Principal, stream_id: str, audio: bytes) -> LiveResult:
        """Hear the next piece.

        Raises:
            NotFoundError: The stream has ended, was idle for too long, or the speech service was restarted.
        """
        ...

    async def finish(self, principal: Principal, stream_id: str) -> LiveResult:
        """End a stream and return what was still open; raises as `feed`."""
        ...

    async def close(self, principal: Principal, stream_id: str) -> None:
        """Give a stream up; does nothing when there is none."""
        ...


class VoiceService(Protocol):
    """Answers questions that are asked by voice.

    `audio` yields pieces of a file of any format that `aihub.media` reads, while they arrive. Both methods raise what
    `SpeechService` and `aihub.chat.service.ChatService` raise, and

        InvalidRequestError: No speech was heard (`no_speech`), or a field of the chat request is wrong; the latter is told
            before any audio is read.
        PayloadTooLargeError: The question is too long to be one (`audio_too_long`).
        RequestTimeoutError: The audio took too long to arrive.
    """

    async def ask(self, principal: Principal, question: VoiceQuestion, audio: AsyncGenerator[bytes, None]) -> dict[str, Any]:
        """Return OpenAI's `chat.completion` object with what was heard as `transcript`."""
        ...

    async def open_ask_stream(
        self, principal: Principal, question: VoiceQuestion, audio: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[str, None]:
        """Return finished server-sent events: what is heard, then the frames of a chat stream.

        Awaits the first event: errors before it are raised here, later ones by the stream. Closing the stream stops the
        recognition, the search and the engine.
        """
        ...
