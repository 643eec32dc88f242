"""Audio of every format becomes 16 kHz mono samples."""

import io
import wave
from collections.abc import Callable

import numpy as np
import pytest

from aihub.media.audio import decode_audio
from aihub.media.container import IncomingFile
from aihub.media.service import SAMPLE_RATE_HZ, MediaError
from tests.unit.media.media_files import encoded_audio, speech_like, spoken_wav, video, wav

FLOAT = 3


def decoded(data: bytes, *, max_duration_s: float = 60.0) -> bytes:
    return b"".join(decode_audio(data, max_duration_s=max_duration_s, max_buffered_bytes=2**24))


def decoded_incoming(data: bytes, piece_bytes: int = 1000) -> tuple[bytes, int]:
    """The samples of a file that comes in pieces, and how many bytes had come when the first samples left."""
    source = io.BytesIO(data)
    file = IncomingFile(lambda: source.read(piece_bytes))
    samples, first = b"", 0
    for piece in decode_audio(file, max_duration_s=60, max_buffered_bytes=2**24):
        first = first or source.tell()
        samples += piece
    return samples, first


def is_same_but_for_the_end(one: bytes, other: bytes) -> bool:
    """How much silence the encoder put at the end stands where a stream cannot be looked at in advance."""
    shorter = min(len(one), len(other))
    return abs(len(one) - len(other)) < 3200 and one[: shorter - 100] == other[: shorter - 100]


def likeness(samples: bytes) -> float:
    """Correlation with `speech_like`, at the best of the delays that codecs have."""
    spoken = speech_like(2.0).astype(float)[4_000:20_000]
    heard = np.frombuffer(samples, "<i2").astype(float)[2_800:21_200]
    products = np.correlate(heard, spoken, "valid")
    best = int(products.argmax())
    return float(products[best] / np.linalg.norm(spoken) / np.linalg.norm(heard[best : best + len(spoken)]))


def test_samples_that_need_no_conversion_come_through_bit_for_bit() -> None:
    spoken = speech_like(3.0).tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE_HZ)
        writer.writeframes(spoken)
    assert decoded(file.getvalue()) == spoken
    assert decoded_incoming(file.getvalue())[0] == spoken
    assert decoded(encoded_audio("flac", "flac", 3.0, rate_hz=SAMPLE_RATE_HZ)) == spoken


@pytest.mark.parametrize(
    "make",
    [
        lambda s: wav((s // 256 + 128).astype(np.uint8).tobytes(), bits=8),
        lambda s: wav((s.astype("<i4") * 256).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes(), bits=24),
        lambda s: wav((s.astype("<i4") * 65536).tobytes(), bits=32),
        lambda s: wav((s / 32768).astype("<f4").tobytes(), encoding=FLOAT, bits=32),
        lambda s: wav((s / 32768).astype("<f8").tobytes(), encoding=FLOAT, bits=64),
    ],
    ids=["u8", "s24", "s32", "f32", "f64"],
)
def test_every_width_of_samples_is_read(make: Callable[[np.ndarray], bytes]) -> None:
    spoken = speech_like(1.0)
    heard = np.frombuffer(decoded(make(spoken)), "<i2")
    assert len(heard) == len(spoken)
    assert np.abs(heard.astype(int) - spoken).max() <= 256


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz", "layout"),
    [
        ("wav", "pcm_mulaw", 8_000, "mono"),
        ("wav", "pcm_alaw", 8_000, "mono"),
        ("wav", "pcm_s16le", 44_100, "stereo"),
        ("wav", "pcm_s16le", 96_000, "7.1"),
        ("flac", "flac", 48_000, "stereo"),
        ("mp3", "libmp3lame", 44_100, "stereo"),
        ("mp3", "libmp3lame", 22_050, "mono"),
        ("ogg", "libopus", 48_000, "mono"),
        ("ogg", "vorbis", 44_100, "stereo"),
        ("mp4", "aac", 44_100, "stereo"),
        ("mp4:frag", "aac", 48_000, "mono"),
        ("ipod", "alac", 44_100, "mono"),
        ("adts", "aac", 48_000, "mono"),
        ("webm", "libopus", 48_000, "stereo"),
        ("matroska", "aac", 48_000, "mono"),
    ],
)
def test_what_was_said_is_heard_in_every_format(container: str, codec: str, rate_hz: int, layout: str) -> None:
    data = encoded_audio(container, codec, rate_hz=rate_hz, layout=layout)
    whole = decoded(data)
    assert abs(len(whole) / 2 / SAMPLE_RATE_HZ - 2.0) < 0.06
    assert likeness(whole) > (0.85 if rate_hz > 16_000 else 0.7)
    assert is_same_but_for_the_end(decoded_incoming(data)[0], whole)


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 9, 17, 64])
def test_channels_are_mixed_without_getting_louder(channels: int) -> None:
    spoken = speech_like(0.5)
    heard = decoded(wav(np.repeat(spoken[:, None], channels, 1).tobytes(), channels=channels))
    assert np.abs(np.frombuffer(heard, "<i2").astype(int) - spoken).max() <= 2


@pytest.mark.parametrize(("container", "codec", "at_most"), [
    ("wav", "pcm_s16le", 70_000), ("mp3", "libmp3lame", 30_000), ("ogg", "libopus", 20_000), ("flac", "flac", 60_000),
    ("webm", "libopus", 15_000), ("mp4:frag", "aac", 30_000), ("adts", "aac", 30_000),
])  # fmt: skip
def test_streams_are_decoded_while_they_come(container: str, codec: str, at_most: int) -> None:
    data = encoded_audio(container, codec, 10.0, rate_hz=16_000 if codec == "pcm_s16le" else 48_000)
    samples, first = decoded_incoming(data)
    assert first < at_most < len(data)
    assert is_same_but_for_the_end(samples, decoded(data))


def test_an_index_at_the_end_is_waited_for() -> None:
    data = encoded_audio("mp4", "aac")
    samples, first = decoded_incoming(data)
    assert data.index(b"mdat") < data.index(b"moov")
    assert first == len(data)
    assert samples == decoded(data)


def test_a_stream_with_its_index_at_the_end_is_kept_up_to_a_limit() -> None:
    source = io.BytesIO(encoded_audio("mp4", "aac", 10.0))
    with pytest.raises(MediaError) as caught:
        list(decode_audio(IncomingFile(lambda: source.read(1000)), max_duration_s=60, max_buffered_bytes=20_000))
    assert caught.value.code == "media_too_large"


def test_the_sound_of_a_video_is_heard() -> None:
    assert abs(len(decoded(video(range(0, 2000, 40), with_audio=True))) / 32_000 - 2.0) < 0.2


def test_no_numbers_are_silence_and_endless_ones_are_loud() -> None:
    values = np.zeros(16_000, "<f4")
    values[::2] = np.nan
    values[8001::2] = np.inf
    heard = np.frombuffer(decoded(wav(values.tobytes(), encoding=FLOAT, bits=32)), "<i2")
    assert not heard[:8000].any() and heard.max() == 32_767 and heard.min() == 0


def test_what_lasts_too_long_by_its_header_is_refused_before_decoding() -> None:
    with pytest.raises(MediaError, match="longer than 5 s") as caught:
        next(decode_audio(encoded_audio("mp3", "libmp3lame", 6.0), max_duration_s=5, max_buffered_bytes=0))
    assert caught.value.code == "media_too_long"


def test_what_lasts_too_long_in_spite_of_its_header_is_cut_off() -> None:
    source = io.BytesIO(spoken_wav(6.0, data_bytes=2**32 - 1))
    heard = b""
    with pytest.raises(MediaError) as caught:
        for piece in decode_audio(IncomingFile(lambda: source.read(1000)), max_duration_s=5, max_buffered_bytes=0):
            heard += piece
    assert caught.value.code == "media_too_long"
    assert 4.8 < len(heard) / 32_000 <= 5


def test_chained_files_of_different_rates_are_one_recording() -> None:
    data = encoded_audio("mp3", "libmp3lame", rate_hz=44_100) + encoded_audio("mp3", "libmp3lame", rate_hz=22_050)
    assert len(decoded(data)) / 32_000 == pytest.approx(4.0, abs=0.2)


def test_a_recording_that_was_cut_off_is_heard_up_to_there() -> None:
    for data in (
        encoded_audio("mp3", "libmp3lame"),
        encoded_audio("flac", "flac"),
        encoded_audio("webm", "libopus"),
        encoded_audio("ogg", "libopus", 6.0),
        spoken_wav(2.0),
    ):
        assert 0.3 < len(decoded(data[: len(data) // 2])) / len(decoded(data)) < 0.6
