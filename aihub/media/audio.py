"""The first audio track of any file as 16 kHz mono samples. Runs in the limited media process."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from aihub.media.container import (
    IncomingFile,
    damaged,
    first_stream,
    header_duration_s,
    open_container,
    readable,
    too_long,
)
from aihub.media.service import SAMPLE_RATE_HZ, MediaError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

_SAMPLE_BYTES = 2
_MIN_RATE_HZ, _MAX_RATE_HZ = 1_000, 768_000
_MAX_RESAMPLED_CHANNELS = 8
_RANGES = {"u8": (128.0, 2.0**7), "s16": (0.0, 2.0**15), "s32": (0.0, 2.0**31)}
"""Middle and largest value of sample formats that are no floats."""


def decode_audio(source: bytes | IncomingFile, *, max_duration_s: float, max_buffered_bytes: int) -> Iterator[bytes]:
    """Yield samples as `SAMPLE_RATE_HZ` says, in pieces as the codec gives them.

    Parts that cannot be decoded are left out as players do, as long as something can.

    Raises:
        MediaError: There is no audio, it is damaged from the start, or lasts longer than `max_duration_s`.
    """
    identity, file = readable(source, max_buffered_bytes)
    if identity.family == "image":
        raise MediaError("The file is an image and holds no sound; send audio or video.", code="no_audio")
    with open_container(identity, file) as container:
        stream = cast("AudioStream | None", first_stream(container, "audio"))
        if stream is None:
            raise MediaError("The file holds no sound.", code="no_audio")
        _check(stream)
        claimed_s = header_duration_s(container, stream)
        if claimed_s is not None and claimed_s > max_duration_s:
            raise too_long(max_duration_s)
        left = int(max_duration_s * SAMPLE_RATE_HZ) * _SAMPLE_BYTES
        count = 0
        for samples in _resampled(_frames(container, stream)):
            count += len(samples)
            if count > left:
                raise too_long(max_duration_s)
            yield samples
        if count == 0:
            raise MediaError("The file holds no audio samples.", code="empty_media")


def _check(stream: "AudioStream") -> None:
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    if not _MIN_RATE_HZ <= rate <= _MAX_RATE_HZ:
        raise MediaError(f"The file says {rate} samples a second; {_MIN_RATE_HZ} to {_MAX_RATE_HZ} are read.")
    if channels < 1:
        raise damaged("no channels")
    stream.codec_context.thread_count = 1


def _frames(container: "InputContainer", stream: "AudioStream") -> Iterator["AudioFrame"]:
    import av

    failure: Exception | None = None
    is_started = False
    packets = container.demux(stream)
    while True:
        try:
            frames = next(packets).decode()
        except StopIteration:
            break
        except MemoryError:
            raise
        except av.FFmpegError as error:
            failure = error
            if isinstance(error, av.EOFError):
                break
            continue
        for frame in frames:
            is_started = True
            yield frame
    if failure is not None and not is_started:
        raise failure


def _resampled(frames: Iterator["AudioFrame"]) -> Iterator[bytes]:
    """One resampler for as long as frames are alike; chained files change in the middle."""
    import av

    resampler: av.AudioResampler | None = None
    shape: tuple[str, str, int] | None = None
    for frame in frames:
        mono = _mixed(frame) if frame.layout.nb_channels > _MAX_RESAMPLED_CHANNELS else frame
        if resampler is None or shape != (mono.format.name, mono.layout.name, mono.sample_rate):
            if resampler is not None:
                yield from map(_samples, resampler.resample(None))
            shape = (mono.format.name, mono.layout.name, mono.sample_rate)
            resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
        yield from map(_samples, resampler.resample(mono))
    if resampler is not None:
        yield from map(_samples, resampler.resample(None))


def _samples(frame: "AudioFrame") -> bytes:
    # A plane is longer than its samples, for alignment.
    return bytes(memoryview(frame.planes[0])[: frame.samples * _SAMPLE_BYTES])


def _mixed(frame: "AudioFrame") -> "AudioFrame":
    """Return the mean of more channels than FFmpeg has places of loudspeakers for."""
    import av
    import numpy as np

    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, frame.layout.nb_channels).T
    middle, scale = _RANGES.get(frame.format.packed.name, (0.0, 1.0))
    mean = ((data.astype(np.float32) - middle) / scale).mean(axis=0, keepdims=True)
    mixed = av.AudioFrame.from_ndarray(np.ascontiguousarray(mean, dtype=np.float32), format="flt", layout="mono")
    mixed.sample_rate = frame.sample_rate
    mixed.pts = frame.pts
    mixed.time_base = frame.time_base
    return mixed
