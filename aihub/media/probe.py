"""What a file is, from its header. Runs in the limited media process."""

from typing import TYPE_CHECKING, cast

from aihub.media.container import first_stream, header_duration_s, open_container, readable
from aihub.media.image import open_image
from aihub.media.limits import MediaLimits
from aihub.media.service import MediaError, MediaFacts

if TYPE_CHECKING:
    from av.video.stream import VideoStream


def probe(data: bytes, limits: MediaLimits) -> MediaFacts:
    """Return the facts of a whole file.

    Raises:
        MediaError: It is no medium that is read here, or its header is damaged.
    """
    identity, file = readable(data, limits.max_buffered_bytes)
    if identity.family == "image":
        with open_image(data, identity, limits) as image:
            return MediaFacts("image", identity.name, width=image.width, height=image.height)
    with open_container(identity, file) as container:
        video = cast("VideoStream | None", first_stream(container, "video"))
        audio = first_stream(container, "audio")
        name = identity.name if identity.name != "matroska" or b"webm" not in data[:64] else "webm"
        if video is not None:
            context = video.codec_context
            duration_s = header_duration_s(container) or header_duration_s(container, video)
            return MediaFacts("video", name, duration_s, audio is not None, context.width, context.height)
        if audio is not None:
            return MediaFacts("audio", name, header_duration_s(container, audio), has_audio=True)
    raise MediaError("The file holds neither sound nor pictures.", code="empty_media")
