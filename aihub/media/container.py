"""Audio and video files as FFmpeg opens them: from bytes alone, by the demuxers and decoders that are listed here.

Runs in the limited media process.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from aihub.media.identify import HEAD_BYTES, Identity, identify
from aihub.media.service import MediaError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream

_AUDIO_DECODERS = (
    "pcm_u8 pcm_s8 pcm_s16le pcm_s16be pcm_s24le pcm_s24be pcm_s32le pcm_s32be pcm_s64le pcm_f32le pcm_f32be pcm_f64le "
    "pcm_f64be pcm_mulaw pcm_alaw adpcm_ms adpcm_ima_wav mp3 mp3float mp2 mp2float mp1 mp1float aac alac flac opus libopus "
    "vorbis ac3 eac3"
).split()
_VIDEO_DECODERS = "h264 hevc vp8 vp9 libvpx libvpx-vp9 av1 libdav1d mpeg4 mpeg2video mpeg1video theora mjpeg prores png".split()
DECODERS = frozenset((*_AUDIO_DECODERS, *_VIDEO_DECODERS))


def damaged(reason: object) -> MediaError:
    """Return the error for a file that claims a format and does not keep to it."""
    return MediaError(f"The file is damaged and cannot be decoded ({reason}); save it again.")


class IncomingFile:
    """A file that is still coming in, read in order.

    Args:
        pull: Gives the next bytes, empty at the end.
    """

    def __init__(self, pull: Callable[[], bytes]) -> None:
        self._pull = pull
        self._piece = b""
        self._at_end = False

    def peek(self, size: int) -> bytes:
        """Return up to `size` first bytes without taking them."""
        while len(self._piece) < size and not self._at_end:
            self._more()
        return self._piece[:size]

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, fewer where fewer have come; none at the end only."""
        if not self._piece and not self._at_end:
            self._more()
        data, self._piece = self._piece[:size], self._piece[size:]
        return data

    def _more(self) -> None:
        piece = self._pull()
        self._at_end = not piece
        self._piece += piece


class BufferedIncomingFile:
    """A file that is still coming in and is kept, so that its index may lie at its end; seeking ahead waits for the bytes.

    Args:
        source: The file.
        max_bytes: `MediaError` for more.
    """

    def __init__(self, source: IncomingFile, max_bytes: int) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._position = 0

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes from the position; none at the end only."""
        self._fetch(self._position + 1)
        data = bytes(self._data[self._position : self._position + size])
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; -1 where it depends on the size, which nobody knows yet."""
        if whence == io.SEEK_END:
            return -1
        self._position = max(0, offset + (self._position if whence == io.SEEK_CUR else 0))
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def _fetch(self, size: int) -> None:
        while len(self._data) < size:
            piece = self._source.read(2**16)
            if not piece:
                return
            if len(self._data) + len(piece) > self._max_bytes:
                raise MediaError(
                    f"The stream has its index at its end and is over {self._max_bytes // 2**20} MiB; send WebM, Ogg or WAV.",
                    code="media_too_large",
                )
            self._data += piece


def readable(source: bytes | IncomingFile, max_buffered_bytes: int) -> tuple[Identity, Any]:
    """Return what a file is and an object that FFmpeg reads it from.

    Raises:
        MediaError: It is nothing that is read here.
    """
    if not isinstance(source, IncomingFile):
        return identify(source[:HEAD_BYTES]), io.BytesIO(source)
    head = source.peek(HEAD_BYTES)
    identity = identify(head)
    # Recordings in fragments have what their header needs at the start (`mvex`); other MP4 files may have it at the end.
    needs_all = "mp4" in identity.demuxers and b"mvex" not in head.partition(b"mdat")[0]
    return identity, BufferedIncomingFile(source, max_buffered_bytes) if needs_all else source


@contextmanager
def open_container(identity: Identity, file: BinaryIO) -> Iterator["InputContainer"]:
    """Open a file; FFmpeg gets its bytes and can open nothing else.

    Raises:
        MediaError: It cannot be read; also for what FFmpeg finds wrong later in the block.
    """
    import av

    options = {
        "format_whitelist": ",".join(identity.demuxers),
        "codec_whitelist": ",".join(sorted(DECODERS)),
        "protocol_whitelist": "",
    }
    if identity.name == "wav":
        # FFmpeg looks for other codecs in the samples of the first seconds; someone may be speaking them.
        options |= {"analyzeduration": "1", "probesize": "8192"}
    try:
        with av.open(
            file,
            format=identity.forced_demuxer,
            metadata_errors="replace",
            container_options=options,
            buffer_size=4096,
            io_open=_refuse,
        ) as container:
            yield cast("InputContainer", container)
    except MemoryError:
        raise MemoryError from None
    except (av.FFmpegError, EOFError, ValueError) as error:
        raise damaged(getattr(error, "strerror", None) or type(error).__name__) from error


def _refuse(url: str, _flags: int, _options: dict[str, str]) -> BinaryIO:
    raise MediaError("The file names other files, which are not opened; send a file that holds all.", code="unsupported_media")


def first_stream(container: "InputContainer", kind: str) -> "Stream | None":
    """Return the first stream of a kind, pictures of covers left out.

    Raises:
        MediaError: Its codec is not read here.
    """
    from av.stream import Disposition

    for stream in container.streams:
        if stream.type == kind and not stream.disposition & Disposition.attached_pic:
            name = None if stream.codec_context is None else stream.codec_context.codec.name
            if name not in DECODERS:
                raise MediaError(
                    f"The {kind} in the file is coded by {name or 'an unknown codec'}, which is not read; "
                    f"save it with {'AAC, MP3, Opus or FLAC' if kind == 'audio' else 'H.264 or VP9'}.",
                    code="unsupported_media",
                )
            return stream
    return None


def header_duration_s(container: "InputContainer", stream: "Stream | None" = None) -> float | None:
    """Return what the header says, of one stream or of the whole; None where it does not."""
    import av

    if stream is not None and stream.duration is not None and stream.time_base is not None and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and container.duration > 0:
        return container.duration / av.time_base
    return None


def too_long(max_duration_s: float) -> MediaError:
    """Return the error for what lasts longer than allowed."""
    return MediaError(f"It lasts longer than {max_duration_s:g} s; cut it into shorter files.", code="media_too_long")
