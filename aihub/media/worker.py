"""The media process: `python -m aihub.media.worker`, started by `aihub.media.decoder`.

A request's header names the `task`; its body is the file, unless it says `is_stream`: then the process asks for pieces by frames
with `more`, and gets them until one says `end`. An answer ends by a frame with `error`, or by one without `continues`.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NoReturn

from aihub.core.sandbox.frames import BrokenFrameError, Frame
from aihub.core.sandbox.launcher import CONTINUES, Answer, Channel, run_launcher
from aihub.media.audio import decode_audio
from aihub.media.container import IncomingFile, damaged
from aihub.media.image import prepare_image
from aihub.media.limits import MediaLimits
from aihub.media.probe import probe
from aihub.media.service import SAMPLE_RATE_HZ, MediaError, PreparedImage
from aihub.media.video import sample_video

PIECE_BYTES = SAMPLE_RATE_HZ
"""Half a second of 16-bit samples."""

logger = logging.getLogger(__name__)


class _Pieces:
    """Sends samples in pieces of `PIECE_BYTES`, and what there is when the process has to wait for more of the file."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting = bytearray()

    def add(self, samples: bytes) -> None:
        self._waiting += samples
        while len(self._waiting) >= PIECE_BYTES:
            self._channel.send(Frame({CONTINUES: True}, bytes(self._waiting[:PIECE_BYTES])))
            del self._waiting[:PIECE_BYTES]

    def flush(self) -> None:
        if self._waiting:
            self._channel.send(Frame({CONTINUES: True}, bytes(self._waiting)))
            self._waiting.clear()


class _Worker:
    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._tasks: dict[str, Callable[[Frame, Channel], Frame]] = {
            "probe": self._probe,
            "prepare_image": self._prepare_image,
            "decode_audio": self._decode_audio,
            "sample_video": self._sample_video,
        }

    def answer(self, request: Frame, channel: Channel) -> None:
        """Do one task."""
        try:
            last = self._tasks[request.header["task"]](request, channel)
        except (MemoryError, BrokenFrameError):
            raise
        except MediaError as error:
            last = _refusal(error)
        except Exception as error:
            # Damaged files bring up every kind of exception in the libraries; all of them are the file's fault.
            logger.info("unreadable file", exc_info=True)
            last = _refusal(damaged(type(error).__name__))
        channel.send(last)

    def _probe(self, request: Frame, _channel: Channel) -> Frame:
        return Frame({"facts": asdict(probe(bytes(request.body), self._limits))})

    def _prepare_image(self, request: Frame, _channel: Channel) -> Frame:
        image = prepare_image(bytes(request.body), max_pixels=request.header["max_pixels"], limits=self._limits)
        return _images({}, [image])

    def _decode_audio(self, request: Frame, channel: Channel) -> Frame:
        pieces = _Pieces(channel)

        def pull() -> bytes:
            pieces.flush()
            channel.send(Frame({CONTINUES: True, "more": True}))
            piece = channel.receive()
            return b"" if piece.header.get("end") else bytes(piece.body)

        source = IncomingFile(pull) if request.header["is_stream"] else bytes(request.body)
        for samples in decode_audio(
            source,
            max_duration_s=request.header["max_duration_s"],
            max_buffered_bytes=self._limits.max_buffered_bytes,
        ):
            pieces.add(samples)
        pieces.flush()
        return Frame({})

    def _sample_video(self, request: Frame, _channel: Channel) -> Frame:
        names = ("max_frames", "max_pixels", "max_duration_s")
        video = sample_video(bytes(request.body), limits=self._limits, **{name: request.header[name] for name in names})
        header = {
            "times_s": [frame.time_s for frame in video.frames],
            "duration_s": video.duration_s,
            "has_audio": video.has_audio,
        }
        return _images(header, [frame.image for frame in video.frames])


def _refusal(error: MediaError) -> Frame:
    return Frame({"error": {"message": error.message, "code": error.code}})


def _images(header: dict[str, Any], images: list[PreparedImage]) -> Frame:
    rows = [[len(image.data), image.media_type, image.width, image.height] for image in images]
    return Frame(header | {"images": rows}, b"".join(image.data for image in images))


def _load(options: dict[str, Any]) -> Answer:
    import av
    import numpy as np
    import PIL.Image

    # What libraries say about files of users would fill the hub's log.
    warnings.simplefilter("ignore")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    av.logging.set_level(None)
    PIL.Image.init()
    del np
    return _Worker(MediaLimits(**options["limits"])).answer


def main() -> NoReturn:
    """Run until the hub closes the pipe or dies."""
    run_launcher(_load)


if __name__ == "__main__":
    main()
