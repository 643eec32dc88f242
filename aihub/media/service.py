"""Decoding of untrusted media as the rest of the hub asks for it. Nothing that comes from outside is decoded anywhere else."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Literal, Protocol

from aihub.core.errors import InvalidRequestError

MediaKind = Literal["image", "audio", "video"]

SAMPLE_RATE_HZ = 16_000
"""Of all decoded audio: one channel of signed 16-bit samples, little-endian."""


class MediaError(InvalidRequestError):
    """The bytes are no medium that is read here, are damaged, or are over a limit; `code` says which."""

    code = "invalid_media"


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What a header says, before anything is decoded.

    Attributes:
        format: Name of the container or image format, as `wav`, `mp4`, `png`.
        duration_s: None where the header does not say (live recordings), and for images.
        width: Pixels; 0 for audio.
        height: Pixels; 0 for audio.
    """

    kind: MediaKind
    format: str
    duration_s: float | None = None
    has_audio: bool = False
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An upright image of 8 bits a channel in RGB, encoded anew.

    Attributes:
        data: The encoded image; nothing of the original's metadata is in it.
        width: Pixels.
        height: Pixels.
    """

    data: bytes
    media_type: Literal["image/png", "image/jpeg"]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """A frame and its time from the start, in seconds."""

    image: PreparedImage
    time_s: float


@dataclass(frozen=True, slots=True)
class SampledVideo:
    """Frames at even distances over the whole video, the first and the last among them."""

    frames: tuple[VideoFrame, ...]
    duration_s: float
    has_audio: bool


class MediaDecoder(Protocol):
    """Decodes in limited processes: a bad file costs its own request.

    Every method raises `MediaError` for what is wrong with the bytes and `UnavailableError` where no process can be had.
    Cancelling ends the work at once.
    """

    async def probe(self, data: bytes) -> MediaFacts:
        """Say what `data` is; names and media types that came with it do not count."""
        ...

    async def prepare_image(self, data: bytes, *, max_pixels: int) -> PreparedImage:
        """Decode an image and make it no larger than `max_pixels`, its sides in proportion."""
        ...

    def decode_audio(self, data: bytes | AsyncIterator[bytes], *, max_duration_s: float) -> AsyncGenerator[bytes, None]:
        """Yield the first audio track, of a video too, as samples at `SAMPLE_RATE_HZ`, in pieces of at most half a second.

        Args:
            data: A whole file, or one that is still coming in, which is decoded as it comes where its format allows it.
            max_duration_s: `MediaError` (`media_too_long`) where it lasts longer, before decoding where its header says so.
        """
        ...

    async def sample_video(self, data: bytes, *, max_frames: int, max_pixels: int, max_duration_s: float) -> SampledVideo:
        """Decode up to `max_frames` frames of a video, each no larger than `max_pixels`."""
        ...
