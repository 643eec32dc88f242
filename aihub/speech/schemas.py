"""What `/v1/audio/transcriptions` takes, field by field as OpenAI's API has it, and the JSON objects it answers with."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from aihub.core.errors import InvalidRequestError
from aihub.core.schemas import ClosedModel, ModelName, ResponseModel, validate
from aihub.http.strict_json import parse_strict_json
from aihub.speech.service import AUTO_MODEL, MAX_PHRASE_CHARS, MAX_PHRASES, LiveOptions, RecognitionOptions, as_written

ResponseFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]
Granularity = Literal["word", "segment"]

MAX_PROMPT_CHARS = 4_096
LISTS = frozenset({"phrases", "timestamp_granularities", "include", "keywords", "languages"}) | {
    "known_speaker_names",
    "known_speaker_references",
}
"""Form fields that may come again; what is here and no field of `TranscriptionFields` is refused with a reason."""

_REFUSED = {
    "include": "Log probabilities are not known here; confidences of words are in `verbose_json`. Leave `include` out.",
    "keywords": "Keywords that are only preferred are not known here. `phrases` names all that may be heard, and nothing else.",
    "languages": "Send one `language`, or none and the model `auto`, which decides by the first seconds.",
    "known_speaker_names": "Speakers are not told apart here. Leave `known_speaker_names` out.",
    "known_speaker_references": "Speakers are not told apart here. Leave `known_speaker_references` out.",
}


def _primary_subtag(value: Any) -> Any:
    return value.replace("_", "-").partition("-")[0].lower() if isinstance(value, str) else value


def _as_written(value: Any) -> Any:
    return as_written(value) if isinstance(value, str) else value


LanguageCode = Annotated[str, BeforeValidator(_primary_subtag), StringConstraints(pattern=r"^[a-z]{2,3}$")]
"""ISO 639-1 code; of a longer tag such as `vi-VN` the language counts."""

Phrase = Annotated[str, BeforeValidator(_as_written), StringConstraints(min_length=1, max_length=MAX_PHRASE_CHARS)]
Phrases = Annotated[list[Phrase], Field(max_length=MAX_PHRASES)]


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _switch(value: Any) -> Any:
    return bool(value) if value in (0, 1) else value


Switch = Annotated[bool, BeforeValidator(_switch)]
"""True or false; clients of vosk-server also send 1 and 0."""


def _phrases(values: Any) -> Any:
    """Take the phrases of one form field that holds a JSON list."""
    if not isinstance(values, list) or len(values) != 1 or not values[0].startswith("[") or values[0] == "[unk]":
        return values
    try:
        return parse_strict_json(values[0].encode())
    except InvalidRequestError as error:
        raise ValueError("must be a JSON list of texts, or the field repeated for each phrase") from error


def _strategy(value: Any) -> Any:
    """Take an object in one form field, as well as the fields `chunking_strategy[...]` that OpenAI's client sends."""
    if not isinstance(value, str) or not value.lstrip().startswith("{"):
        return value
    try:
        return parse_strict_json(value.encode())
    except InvalidRequestError as error:
        raise InvalidRequestError(f"'chunking_strategy' is no valid JSON. {error.message}", param="chunking_strategy") from error


VAD_PARAMETERS = frozenset({"prefix_padding_ms", "silence_duration_ms", "threshold"})
"""What OpenAI's `server_vad` can be given."""


class VoiceActivityFields(BaseModel):
    """OpenAI's `server_vad`. The hub cuts at silences of its own finding, so nothing of it can be tuned."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    type: Literal["server_vad"]


class TranscriptionFields(BaseModel):
    """The form fields beside `file`; values arrive as texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    model: ModelName = AUTO_MODEL
    language: LanguageCode | None = None
    prompt: Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARS)] = ""
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.0
    response_format: ResponseFormat = "json"
    timestamp_granularities: Annotated[list[Granularity], Field(max_length=16)] = []
    stream: bool = False
    phrases: Annotated[Phrases, BeforeValidator(_phrases)] = []
    chunking_strategy: Literal["auto"] | VoiceActivityFields | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> "TranscriptionFields":
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise ValueError("must be sent with response_format verbose_json where it has timestamp_granularities")
        if self.stream and self.response_format not in {"json", "verbose_json"}:
            raise ValueError("must be sent with response_format json or verbose_json where it has stream")
        return self

    @property
    def granularities(self) -> frozenset[Granularity]:
        """What a verbose answer lists; segments where nothing is asked for, as OpenAI does."""
        return frozenset(self.timestamp_granularities or ("segment",))

    def options(self) -> RecognitionOptions:
        """Return what the recogniser has to know."""
        return RecognitionOptions(self.model, self.language, tuple(self.phrases))


def read_fields(fields: dict[str, Any]) -> TranscriptionFields:
    """Validate the form fields of an upload; an empty one counts as not sent.

    Raises:
        InvalidRequestError: One is unknown, wrong or of a kind that is not known here.
    """
    sent = {name: value for name, value in fields.items() if value not in ("", [""])}
    if "chunking_strategy" in sent:
        sent["chunking_strategy"] = _strategy(sent["chunking_strategy"])
    for name, reason in _REFUSED.items():
        if name in sent:
            raise InvalidRequestError(reason, param=name, code="unsupported_parameter")
    if sent.get("response_format") == "diarized_json":
        raise InvalidRequestError(
            "Speakers are not told apart here. Send verbose_json for segments with their times.",
            param="response_format",
            code="unsupported_parameter",
        )
    _refuse_tuning(sent.get("chunking_strategy"))
    return validate(TranscriptionFields, sent)


def _refuse_tuning(strategy: Any) -> None:
    """Refuse OpenAI's parameters of `server_vad` by what they are; what is no such object is left to the schema."""
    if isinstance(strategy, dict) and strategy.get("type") == "server_vad":
        for name in VAD_PARAMETERS & strategy.keys():
            raise InvalidRequestError(
                f"`{name}` cannot be tuned here: files are cut at silences that the hub finds. Leave it out.",
                param=f"chunking_strategy.{name}",
                code="unsupported_parameter",
            )


class DurationUsage(ResponseModel):
    """What OpenAI's API calls usage by duration; seconds of audio."""

    type: Literal["duration"] = "duration"
    seconds: float


class DetectedLanguage(ResponseModel):
    code: str


class TranscribedWord(ResponseModel):
    """Times in seconds; `confidence` from 0 to 1 is the hub's own."""

    word: str
    start: float
    end: float
    confidence: float


class TranscribedSegment(ResponseModel):
    """What was said between two pauses; times in seconds.

    `avg_logprob` is the mean logarithm of its words' confidences, `compression_ratio` as Whisper computes it. What only Whisper
    has (`tokens`, `no_speech_prob`) is empty or 0. `confidence` is the hub's own.
    """

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float = 0.0
    confidence: float


class Transcription(ResponseModel):
    """The answer to `json`; `model` is the hub's own field."""

    text: str
    languages: list[DetectedLanguage]
    usage: DurationUsage
    model: str


class VerboseTranscription(Transcription):
    """The answer to `verbose_json`; `language` is a code as in requests, `duration` in seconds."""

    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    segments: list[TranscribedSegment] | None = None
    words: list[TranscribedWord] | None = None


class LiveConfig(ClosedModel):
    """The `config` object of vosk-server's protocol, with its defaults.

    `language`, `partial_words` and `encoding` are the hub's own.

    Attributes:
        sample_rate: In Hz.
        phrase_list: All that may be heard, as `phrases` of a file.
    """

    sample_rate: Annotated[int, BeforeValidator(_whole), Field(ge=8_000, le=48_000)] = 8_000
    words: Switch = True
    partial_words: Switch = False
    max_alternatives: Annotated[int, Field(ge=0, le=10)] = 0
    phrase_list: Phrases = []
    model: ModelName = AUTO_MODEL
    language: LanguageCode | None = None
    encoding: Literal["pcm_s16le", "container"] = "pcm_s16le"

    def options(self) -> LiveOptions:
        """Return what the recogniser has to know."""
        return LiveOptions(
            RecognitionOptions(self.model, self.language, tuple(self.phrase_list)),
            encoding=self.encoding,
            sample_rate=self.sample_rate,
            words=self.words,
            partial_words=self.partial_words,
            max_alternatives=self.max_alternatives,
        )
