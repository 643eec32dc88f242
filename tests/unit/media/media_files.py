"""Media of every kind, made by the test."""

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

RATE_HZ = 16_000


def speech_like(seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Noise and a tone, the same each time."""
    count = int(seconds * rate_hz)
    noise = np.random.default_rng(7).normal(size=count) * 2000
    return (noise + 4000 * np.sin(np.arange(count) * 2 * np.pi * 440 / rate_hz)).astype("<i2")


def wav(
    samples: bytes, *, encoding: int = 1, channels: int = 1, rate_hz: int = RATE_HZ, bits: int = 16, data_bytes: int | None = None
) -> bytes:
    """A WAV file. `encoding` is 1 for integers, 3 for floats, 6 for A-law, 7 for mu-law; the header claims `data_bytes`."""
    claimed = len(samples) if data_bytes is None else data_bytes
    frame = channels * bits // 8
    return b"".join(
        (
            b"RIFF" + struct.pack("<I", min(36 + claimed, 2**32 - 1)) + b"WAVE",
            b"fmt " + struct.pack("<IHHIIHH", 16, encoding, channels, rate_hz, (rate_hz * frame) % 2**32, frame % 2**16, bits),
            b"data" + struct.pack("<I", claimed) + samples,
        )
    )


def spoken_wav(seconds: float = 1.0, **options: Any) -> bytes:
    return wav(speech_like(seconds).tobytes(), **options)


def encoded_audio(container: str, codec: str, seconds: float = 2.0, *, rate_hz: int = 48_000, layout: str = "mono") -> bytes:
    """The samples of `speech_like` in any container; `mp4` has its index at the end, `mp4:frag` is one in fragments."""
    file = io.BytesIO()
    name, _, kind = container.partition(":")
    options = {"movflags": "frag_keyframe+empty_moov"} if kind == "frag" else {}
    with av.open(file, "w", format=name, options=options) as output:
        stream = output.add_stream(codec, rate=rate_hz, layout=layout, options={"strict": "experimental"})
        context = stream.codec_context
        resampler = av.AudioResampler(context.format.name, layout, rate_hz, frame_size=context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(speech_like(seconds)[None, :], format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        for part in (*resampler.resample(frame), *resampler.resample(None), None):
            output.mux(stream.encode(part))
    return file.getvalue()


def video(
    times_ms: Sequence[int],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    with_audio: bool = False,
    key_every: int = 12,
) -> bytes:
    """Frames shown at `times_ms`; frame `i` of `n` is grey `255 * i / n`, with its upper left quarter red."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=1000)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = key_every
        sound = output.add_stream("aac" if container == "mp4" else "libopus", rate=48_000, layout="mono") if with_audio else None
        for index, time_ms in enumerate(times_ms):
            picture = np.full((size[1], size[0], 3), 255 * index // len(times_ms), np.uint8)
            picture[: size[1] // 2, : size[0] // 2] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if sound is not None:
            resampler = av.AudioResampler(sound.codec_context.format.name, "mono", 48_000, sound.codec_context.frame_size)
            frame = av.AudioFrame.from_ndarray(speech_like(times_ms[-1] / 1000 + 0.1)[None, :], format="s16", layout="mono")
            frame.sample_rate = RATE_HZ
            for part in (*resampler.resample(frame), *resampler.resample(None), None):
                output.mux(sound.encode(part))
    return file.getvalue()


def steady_video(container: str, codec: str, pixels: str) -> bytes:
    """Two seconds at 25 frames a second; frame `i` is of grey `5 * i`."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(np.full((96, 128, 3), 5 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def image(
    name: str = "PNG", size: tuple[int, int] = (40, 30), *, mode: str = "RGB", color: Any = (200, 30, 30), **options: Any
) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, name, **options)
    return file.getvalue()


def opened(data: bytes) -> Image.Image:
    """Decode what was prepared."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture
