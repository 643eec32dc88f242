"""Frames are taken from all over a video, however its times lie."""

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from aihub.media.limits import MediaLimits
from aihub.media.service import MediaError, SampledVideo
from aihub.media.video import sample_video
from tests.unit.media.media_files import image, opened, spoken_wav, video

EVEN = range(0, 4_000, 40)
MATRIX = struct.Struct(">9i")
UPRIGHT = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
CLOCKWISE = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)


def sampled(data: bytes, count: int = 5, *, limits: MediaLimits | None = None, **bounds: Any) -> SampledVideo:
    options = {"max_pixels": 10_000, "max_duration_s": 60.0} | bounds
    return sample_video(data, max_frames=count, limits=limits or MediaLimits(), **options)


def times_of(result: SampledVideo) -> list[float]:
    return [round(frame.time_s, 3) for frame in result.frames]


def claiming(duration_s: float, webm: bytes) -> bytes:
    """The same file with another duration in its header."""
    at = webm.index(b"\x44\x89\x88") + 3
    return webm[:at] + struct.pack(">d", duration_s * 1_000) + webm[at + 8 :]


def greys_of(result: SampledVideo) -> list[int]:
    return [opened(frame.image.data).getpixel((frame.image.width - 4, frame.image.height - 4))[0] for frame in result.frames]


@pytest.mark.parametrize(("container", "codec"), [
    ("mp4", "libx264"), ("mp4", "libx265"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("matroska", "mpeg4"), ("mov", "libx264"),
])  # fmt: skip
def test_frames_lie_at_even_distances_with_the_first_and_the_last(container: str, codec: str) -> None:
    result = sampled(video(EVEN, container=container, codec=codec))
    assert times_of(result) == [0.0, 0.96, 1.96, 2.96, 3.96]
    assert all(abs(grey - 255 * time / 4) < 8 for grey, time in zip(greys_of(result), times_of(result), strict=True))
    assert result.duration_s == pytest.approx(4.0, abs=0.05)
    assert all(frame.image.media_type == "image/jpeg" for frame in result.frames)


@pytest.mark.parametrize("key_every", [1, 5, 1000])
def test_each_frame_is_the_one_of_its_time_wherever_key_frames_lie(key_every: int) -> None:
    result = sampled(video(EVEN, key_every=key_every), 9)
    assert all(abs(grey - 255 * time / 4) < 8 for grey, time in zip(greys_of(result), times_of(result), strict=True))


@pytest.mark.parametrize(("times_ms", "seen"), [
    ([0, 10, 20, 30, 3_000, 4_000], [0.0, 0.03, 3.0, 4.0]),  # the frame on the screen at 0, 1, 2, 3 and 4 s
    ([0, 4_000], [0.0, 4.0]),
    ([0, 3_990, 4_000], [0.0, 4.0]),
    ([500, 1_500, 2_500, 3_500, 4_500], [0.0, 1.0, 2.0, 3.0, 4.0]),
])  # fmt: skip
def test_rates_that_change_are_followed(times_ms: Sequence[int], seen: list[float]) -> None:
    assert times_of(sampled(video(times_ms, container="matroska", codec="mpeg4"))) == seen


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_video_of_one_frame_lasts_no_time_and_is_seen(container: str) -> None:
    result = sampled(video([0], container=container, codec="mpeg4"))
    assert times_of(result) == [0.0] and result.duration_s < 1.1


def test_no_more_frames_than_asked_for_and_none_twice() -> None:
    data = video(EVEN)
    for count in (1, 2, 3, 50, 1000):
        times = times_of(sampled(data, count))
        assert len(times) == min(count, len(EVEN)) and all(a < b for a, b in pairwise(times))


def test_frames_are_no_larger_than_asked_for() -> None:
    result = sampled(video(EVEN, size=(640, 360)), max_pixels=14_400)
    assert {(frame.image.width, frame.image.height) for frame in result.frames} == {(160, 90)}


def test_sound_is_noticed() -> None:
    assert sampled(video(EVEN, with_audio=True)).has_audio
    assert not sampled(video(EVEN)).has_audio


def test_videos_of_phones_are_turned_upright() -> None:
    """The red quarter lies at the upper left as encoded, and at the upper right of what is shown."""
    data = video(EVEN, size=(64, 32))
    upright = MATRIX.pack(*UPRIGHT)
    track = data.index(upright, data.index(b"tkhd"))
    turned = data[:track] + MATRIX.pack(*CLOCKWISE) + data[track + MATRIX.size :]
    for source, size, corner in ((data, (64, 32), (4, 4)), (turned, (32, 64), (27, 4))):
        picture = sampled(source).frames[0].image
        assert (picture.width, picture.height) == size
        red, green, blue = opened(picture.data).getpixel(corner)  # type: ignore[misc]  # RGB has three
        assert red > 180 and green < 80 and blue < 80


def test_a_video_of_ten_hours_is_refused_by_its_header() -> None:
    with pytest.raises(MediaError, match="longer than 3600 s") as caught:
        sampled(claiming(36_000.0, video(EVEN, container="webm", codec="libvpx")), max_duration_s=3600)
    assert caught.value.code == "media_too_long"


def test_a_video_that_is_longer_than_its_header_says_is_refused() -> None:
    with pytest.raises(MediaError) as caught:
        sampled(claiming(4.0, video([0, 1_000, 36_000_000], container="webm", codec="libvpx")), max_duration_s=3600)
    assert caught.value.code == "media_too_long"


def test_frames_are_counted_before_they_are_decoded() -> None:
    with pytest.raises(MediaError, match="more than 50 frames"):
        sampled(video(EVEN), limits=MediaLimits(max_video_packets=50))


def test_frames_of_too_many_pixels_are_refused() -> None:
    with pytest.raises(MediaError, match="640 x 360 pixels") as caught:
        sampled(video([0, 40], size=(640, 360)), limits=MediaLimits(max_image_pixels=200_000))
    assert caught.value.code == "image_too_large"


def test_a_video_that_was_cut_off_is_seen_up_to_there() -> None:
    data = video(EVEN, container="webm", codec="libvpx", key_every=10)
    result = sampled(data[: len(data) // 2])
    assert 1.0 < times_of(result)[-1] < 3.0 and len(result.frames) == 5


def test_frames_that_cannot_be_decoded_are_left_out() -> None:
    data = bytearray(video(EVEN, key_every=10))
    start = data.index(b"mdat") + 4
    for position in range(start + 900, start + 2_000, 7):
        data[position] ^= 0xFF
    assert len(sampled(bytes(data)).frames) >= 2


@pytest.mark.parametrize("data", [image(), image("GIF"), spoken_wav()])
def test_what_is_no_video_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError) as caught:
        sampled(data)
    assert caught.value.code == "no_video"
