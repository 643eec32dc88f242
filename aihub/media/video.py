"""Frames at even distances over a video. Runs in the limited media process."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aihub.media.container import damaged, first_stream, header_duration_s, open_container, readable, too_long
from aihub.media.image import encode_image, fit
from aihub.media.limits import MediaLimits
from aihub.media.service import MediaError, PreparedImage, SampledVideo, VideoFrame

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame as DecodedFrame
    from av.video.stream import VideoStream


@dataclass(frozen=True, slots=True)
class _Timeline:
    """The frames of a video as its packets name them, in the stream's units of time, in the order in which they are shown."""

    shown: list[int]
    keys: list[int]
    duration_s: float


def sample_video(data: bytes, *, max_frames: int, max_pixels: int, max_duration_s: float, limits: MediaLimits) -> SampledVideo:
    """Return up to `max_frames` frames, the first and the last among them, with the times at which they are shown.

    All packets are read once without decoding, as headers may lie; then only what lies between a frame and the key frame before
    it is decoded.

    Raises:
        MediaError: There is no video, it is damaged, its frames are too large, or it lasts longer than `max_duration_s`.
    """
    identity, file = readable(data, limits.max_buffered_bytes)
    if identity.family == "image":
        raise MediaError("The file is an image and no video; send it as an image.", code="no_video")
    with open_container(identity, file) as container:
        stream = _video(container)
        has_audio = first_stream(container, "audio") is not None
        if (header_duration_s(container, stream) or 0.0) > max_duration_s:
            raise too_long(max_duration_s)
        _check_size(stream.codec_context.width, stream.codec_context.height, limits)
        timeline = _read_timeline(container, stream, max_duration_s, limits)
    file.seek(0)
    with open_container(identity, file) as container:
        frames = [
            VideoFrame(_prepare(frame, max_pixels, limits), time_s)
            for time_s, frame in _decode(container, _video(container), timeline, max_frames)
        ]
    if not frames:
        raise damaged("no frame can be decoded")
    return SampledVideo(tuple(frames), max(timeline.duration_s, frames[-1].time_s), has_audio)


def _video(container: "InputContainer") -> "VideoStream":
    stream = cast("VideoStream | None", first_stream(container, "video"))
    if stream is None:
        raise MediaError("The file holds no pictures; send video, or send it as audio.", code="no_video")
    stream.codec_context.thread_count = 1
    return stream


def _check_size(width: int, height: int, limits: MediaLimits) -> None:
    if width < 1 or height < 1:
        raise damaged("no pixels")
    if width * height > limits.max_image_pixels:
        raise MediaError(
            f"The video has {width} x {height} pixels; up to {limits.max_image_pixels / 1e6:g} million are read.",
            code="image_too_large",
        )


def _read_timeline(container: "InputContainer", stream: "VideoStream", max_duration_s: float, limits: MediaLimits) -> _Timeline:
    shown: list[int] = []
    keys: list[int] = []
    end = 0
    for packet in _packets(container, stream):
        pts = packet.pts if packet.pts is not None else packet.dts
        if pts is None:
            pts = len(shown)
        if len(shown) >= limits.max_video_packets:
            raise MediaError(
                f"The video has more than {limits.max_video_packets} frames; cut it into shorter ones.", code="media_too_long"
            )
        shown.append(pts)
        if packet.is_keyframe:
            keys.append(pts)
        end = max(end, pts + (packet.duration or 0))
    if not shown:
        raise MediaError("The video holds no frames.", code="empty_media")
    shown = sorted(set(shown))
    duration_s = float((max(end, shown[-1]) - shown[0]) * stream.time_base) if stream.time_base else 0.0
    if duration_s > max_duration_s:
        raise too_long(max_duration_s)
    return _Timeline(shown, sorted(keys), duration_s)


def _packets(container: "InputContainer", stream: "VideoStream") -> Iterator["Packet[VideoStream]"]:
    """Give what can be read; a file that is cut off ends there."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.EOFError, av.InvalidDataError):
            return
        if packet.size:
            yield packet


def _choose(shown: list[int], count: int) -> list[int]:
    """Return the frames that are shown at `count` even moments from the first to the last."""
    if count == 1:
        return shown[:1]
    span = shown[-1] - shown[0]
    moments = [shown[0] + span * index // (count - 1) for index in range(count)]
    return sorted({shown[bisect_right(shown, moment) - 1] for moment in moments})


def _decode(
    container: "InputContainer", stream: "VideoStream", timeline: _Timeline, count: int
) -> Iterator[tuple[float, "DecodedFrame"]]:
    """Give the chosen frames with their times; where one cannot be decoded, the next that can."""
    time_base = stream.time_base or 0
    frames = _frames(container, stream)
    at: int | None = None
    last: tuple[float, DecodedFrame] | None = None
    is_given = False
    for wanted in _choose(timeline.shown, count):
        if at is not None and at >= wanted:
            continue
        key = timeline.keys[bisect_right(timeline.keys, wanted) - 1] if timeline.keys else None
        if key is not None and key > (timeline.shown[0] if at is None else at) and _seek(container, stream, key):
            frames = _frames(container, stream)
        for index, frame in enumerate(frames):
            at = frame.pts if frame.pts is not None else timeline.shown[min(index, len(timeline.shown) - 1)]
            last, is_given = (max(0.0, float((at - timeline.shown[0]) * time_base)), frame), at >= wanted
            if is_given:
                yield last
                break
    if last is not None and not is_given:
        yield last


def _seek(container: "InputContainer", stream: "VideoStream", pts: int) -> bool:
    import av

    try:
        container.seek(pts, stream=stream)
    except av.FFmpegError:
        return False  # no index: all that comes before is decoded
    return True


def _frames(container: "InputContainer", stream: "VideoStream") -> Iterator["DecodedFrame"]:
    """Give what can be decoded; damaged frames are left out."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            frames = next(packets).decode()
        except (StopIteration, av.EOFError):
            return
        except MemoryError:
            raise
        except av.FFmpegError:
            continue
        yield from frames


def _prepare(frame: "DecodedFrame", max_pixels: int, limits: MediaLimits) -> PreparedImage:
    _check_size(frame.width, frame.height, limits)
    width, height = fit(frame.width, frame.height, max_pixels)
    image = frame.reformat(width=width, height=height, format="rgb24").to_image()  # type: ignore[no-untyped-call]  # PyAV leaves it untyped
    # Counter-clockwise, as the container's display matrix has it.
    return encode_image(image.rotate(frame.rotation, expand=True) if frame.rotation else image, "image/jpeg")
