"""Content parts of a user message in OpenAI's shapes: checked for form and size here, and decoded by nobody yet.

`pipelines/media_parts.py` makes of them what engines take: `ReadyText` and `ReadyImage`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, StringConstraints, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from aihub.core.limits import MAX_IMAGE_BYTES, MAX_MEDIA_BYTES
from aihub.core.schemas import LenientModel, ObjectId

MAX_URL_CHARS = 2_048

_DATA_URL = re.compile(r"data:([^,;\s]{0,100})((?:;[^,;\s]{1,100}){0,4}),", re.IGNORECASE)
_LONGEST_HEAD = 512
_ANY_TYPE = "application/octet-stream"

Detail = Literal["auto", "low", "high"]
AudioFormat = Literal["wav", "mp3", "flac", "ogg", "opus", "m4a", "aac", "mp4", "webm"]


@dataclass(frozen=True, slots=True)
class InlineSource:
    """Base64 text as it was sent; whether it is any shows when it is decoded."""

    base64: str


@dataclass(frozen=True, slots=True)
class RemoteSource:
    url: str


@dataclass(frozen=True, slots=True)
class UploadedSource:
    file_id: str


MediaSource = InlineSource | RemoteSource | UploadedSource


def _inline(text: str, max_bytes: int) -> InlineSource:
    size_bytes = len(text) // 4 * 3
    if size_bytes > max_bytes + 2:
        details = {"size": size_bytes, "limit": max_bytes}
        raise PydanticCustomError("media_too_large", "holds {size} bytes; at most {limit} are allowed", details)
    if not text:
        raise PydanticCustomError("media_empty", "holds no data")
    return InlineSource(text)


def _data_url(value: str, kind: str | None, max_bytes: int) -> InlineSource:
    """Take a data URL apart; `kind` is what its media type must begin with, None for any."""
    head = _DATA_URL.match(value[:_LONGEST_HEAD])
    if head is None or not head[2].lower().endswith(";base64"):
        raise PydanticCustomError(
            "data_url", "must be a data URL in base64, such as data:{kind};base64,AAAA", {"kind": f"{kind or 'text'}/..."}
        )
    media_type = head[1].lower()
    if media_type == "image/svg+xml":
        raise PydanticCustomError("media_type", "is an SVG drawing, which is not read as an image; send it as PNG, JPEG or WebP")
    if kind is not None and media_type and media_type != _ANY_TYPE and not media_type.startswith(f"{kind}/"):
        details = {"given": media_type, "kind": kind}
        raise PydanticCustomError("media_type", "has the media type {given}; {kind}/... is expected here", details)
    return _inline(value[head.end() :], max_bytes)


def _url_reader(kind: str, max_bytes: int) -> Callable[[Any], InlineSource | RemoteSource]:
    def read(value: Any) -> InlineSource | RemoteSource:
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "must be a string")
        scheme = value[:8].lower()
        if scheme.startswith("data:"):
            return _data_url(value, kind, max_bytes)
        if not scheme.startswith(("http://", "https://")):
            raise PydanticCustomError(
                "media_url", "must be a data URL, such as data:{kind}/...;base64,AAAA, or begin with https://", {"kind": kind}
            )
        if len(value) > MAX_URL_CHARS:
            raise PydanticCustomError("media_url", "must have at most {limit} characters", {"limit": MAX_URL_CHARS})
        return RemoteSource(value)

    return read


def _read_data(value: Any) -> InlineSource:
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "must be a string of base64")
    return _data_url(value, None, MAX_MEDIA_BYTES) if value[:5].lower() == "data:" else _inline(value, MAX_MEDIA_BYTES)


_TEXT_SCHEMA = WithJsonSchema({"type": "string"})
ImageLocation = Annotated[InlineSource | RemoteSource, PlainValidator(_url_reader("image", MAX_IMAGE_BYTES)), _TEXT_SCHEMA]
VideoLocation = Annotated[InlineSource | RemoteSource, PlainValidator(_url_reader("video", MAX_MEDIA_BYTES)), _TEXT_SCHEMA]
Base64Data = Annotated[InlineSource, PlainValidator(_read_data), _TEXT_SCHEMA]


class _OneSource(LenientModel):
    """Base of what names its content in one of two ways: by `file_id` or by a field of its own."""

    own_field: ClassVar[str] = "url"

    file_id: ObjectId | None = Field(default=None, description="Id of an uploaded file.")

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (getattr(self, self.own_field) is None) == (self.file_id is None):
            raise PydanticCustomError("media_source", "needs either '{name}' or 'file_id'", {"name": self.own_field})
        return self

    @property
    def source(self) -> MediaSource:
        if self.file_id is not None:
            return UploadedSource(self.file_id)
        own: MediaSource = getattr(self, self.own_field)
        return own

    @property
    def source_field(self) -> str:
        """Name of the field that was sent."""
        return "file_id" if self.file_id is not None else self.own_field


class ImageUrl(_OneSource):
    url: ImageLocation | None = None
    detail: Detail = "auto"


class VideoUrl(_OneSource):
    url: VideoLocation | None = None


class InputFile(_OneSource):
    own_field: ClassVar[str] = "file_data"

    file_data: Base64Data | None = Field(default=None, description="Base64, bare or as a data URL.")
    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)] | None = None


class InputAudio(LenientModel):
    """`format` is what OpenAI's clients must send; the data itself says what it is."""

    data: Base64Data
    format: AudioFormat


class TextPart(LenientModel):
    type: Literal["text"]
    text: str


class RefusalPart(LenientModel):
    """Some clients send earlier answers back as they were."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


class ImagePart(LenientModel):
    type: Literal["image_url"]
    image_url: ImageUrl

    @property
    def source(self) -> MediaSource:
        return self.image_url.source

    @property
    def source_field(self) -> str:
        return f"image_url.{self.image_url.source_field}"


class AudioPart(LenientModel):
    type: Literal["input_audio"]
    input_audio: InputAudio

    @property
    def source(self) -> MediaSource:
        return self.input_audio.data

    @property
    def source_field(self) -> str:
        return "input_audio.data"


class VideoPart(LenientModel):
    type: Literal["video_url"]
    video_url: VideoUrl

    @property
    def source(self) -> MediaSource:
        return self.video_url.source

    @property
    def source_field(self) -> str:
        return f"video_url.{self.video_url.source_field}"


class FilePart(LenientModel):
    type: Literal["file"]
    file: InputFile

    @property
    def source(self) -> MediaSource:
        return self.file.source

    @property
    def source_field(self) -> str:
        return f"file.{self.file.source_field}"


MediaPart = ImagePart | AudioPart | VideoPart | FilePart
MEDIA_TYPES = frozenset({"image_url", "input_audio", "video_url", "file"})
UserPart = Annotated[TextPart | RefusalPart | ImagePart | AudioPart | VideoPart | FilePart, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class ReadyText:
    """Text made of a part.

    Attributes:
        text: As the model reads it.
        question: The share of it that the user said, which retrieval searches by; empty for documents.
    """

    text: str
    question: str = ""


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """An image as engines take it: a data URL, empty while the image is not decoded and a model is chosen for it."""

    url: str
    detail: Detail = "auto"


ReadyPart = ReadyText | ReadyImage
AnyPart = TextPart | RefusalPart | MediaPart | ReadyPart
