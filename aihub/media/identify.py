"""What bytes are, by their content; names and media types that came with them do not count."""

import re
from dataclasses import dataclass
from typing import Literal

from aihub.media.service import MediaError

HEAD_BYTES = 4096
"""Enough of a file to say what it is."""

_MARKUP = re.compile(rb"\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!doctype[^>]*>\s*)*<\s*([a-z]+)", re.IGNORECASE | re.DOTALL)
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"<asx", b"<MPD", b"<SmoothStreamingMedia")
_SAVE_AS = "PNG, JPEG, GIF, WebP, BMP or TIFF for images, WAV, MP3, FLAC, Ogg or M4A for audio, MP4 or WebM for video"


@dataclass(frozen=True, slots=True)
class Identity:
    """A file by its first bytes.

    Attributes:
        name: Of the format, as `MediaFacts.format`.
        family: Which library decodes it.
        demuxers: Those of FFmpeg that may try it.
    """

    name: str
    family: Literal["image", "container"]
    demuxers: tuple[str, ...] = ()

    @property
    def forced_demuxer(self) -> str | None:
        """The demuxer, where the first bytes leave no doubt; FFmpeg chooses among `demuxers` otherwise."""
        return self.demuxers[0] if len(self.demuxers) == 1 or self.name in {"mp4", "matroska"} else None


_MP3 = Identity("mp3", "container", ("mp3", "aac"))
_MP4 = Identity("mp4", "container", ("mov", "mp4"))
_MATROSKA = Identity("matroska", "container", ("matroska", "webm"))


def identify(head: bytes) -> Identity:
    """Say what a file is.

    Args:
        head: Its first `HEAD_BYTES`, or all of it where it is shorter.

    Raises:
        MediaError: It is nothing that is read here; the message says what it is instead where that can be told.
    """
    if not head:
        raise MediaError("The file is empty.", code="empty_media")
    image = _image(head)
    if image is not None:
        return Identity(image, "image")
    container = _container(head)
    if container is not None:
        return container
    raise _unsupported(head)


def _image(head: bytes) -> str | None:
    for magic, name in (
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff", "jpeg"),
        (b"GIF87a", "gif"),
        (b"GIF89a", "gif"),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"II+\0", "tiff"),
        (b"MM\0+", "tiff"),
    ):
        if head.startswith(magic):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    # Two letters are little: the length of the second header must fit them.
    if head.startswith(b"BM") and len(head) >= 18 and int.from_bytes(head[14:18], "little") in {12, 40, 52, 56, 64, 108, 124}:
        return "bmp"
    return None


def _container(head: bytes) -> Identity | None:
    if head[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64"} and head[8:12] == b"WAVE":
        return Identity("wav", "container", ("wav",))
    if head.startswith(b"fLaC"):
        return Identity("flac", "container", ("flac",))
    if head.startswith(b"OggS"):
        return Identity("ogg", "container", ("ogg",))
    if head.startswith(b"\x1aE\xdf\xa3"):
        return _MATROSKA
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}:
        return _MP4
    if head.startswith(b"ID3"):
        return Identity("mp3", "container", ("mp3", "aac", "flac"))
    # Frames of MP3 and AAC begin with eleven bits; the players' own habit is to skip what zeros come before them.
    start = head.lstrip(b"\0")[:2]
    if len(start) == 2 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0 and start not in {b"\xff\xfe", b"\xff\xff"}:
        return Identity("aac", "container", ("aac",)) if start[1] & 0x06 == 0 else _MP3
    return None


def _unsupported(head: bytes) -> MediaError:
    if head.startswith(_PLAYLISTS) or (b"#EXTM3U" in head[:64]):
        return MediaError("The file is a playlist, which names other files; send the medium itself.", code="unsupported_media")
    markup = _MARKUP.match(head.removeprefix(b"\xef\xbb\xbf"))
    if markup is not None:
        if markup[1].lower() == b"svg" or b"<svg" in head:
            return MediaError("The file is an SVG drawing, which is not read; save it as PNG.", code="unsupported_media")
        return MediaError("The file is a web page or XML and no medium; download the medium itself.", code="unsupported_media")
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        return MediaError("The file is an archive; unpack it and send what is in it.", code="unsupported_media")
    if head.startswith(b"%PDF-"):
        return MediaError("The file is a PDF and no medium; upload it as a document.", code="unsupported_media")
    return MediaError(f"The file is of no format that is read here; save it as {_SAVE_AS}.", code="unsupported_media")
