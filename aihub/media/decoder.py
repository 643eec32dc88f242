"""`SandboxedDecoder`: media decoded in limited processes that no file can take the hub down with."""

import signal
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict

from aihub.core.errors import HubError, UnavailableError
from aihub.core.sandbox.frames import EXIT_MEMORY, Frame
from aihub.core.sandbox.launcher import CONTINUES
from aihub.core.sandbox.limits import ProcessLimits
from aihub.core.sandbox.pool import ProcessPool, ProcessSession
from aihub.core.sandbox.process import ProcessDiedError, ProcessTimeoutError, SandboxProgram
from aihub.media.limits import MediaLimits
from aihub.media.service import MediaError, MediaFacts, PreparedImage, SampledVideo, VideoFrame

_MAX_PIECE_BYTES = 2**20


class SandboxedDecoder:
    """A pool of limited media processes; see `MediaDecoder`.

    No process runs before the first file, nor when none has come for `rest_after_s`.

    Args:
        processes: Files decoded at the same time. A stream that is decoded as it comes holds one from its start to its end.
        limits: What one file may take.
        max_waiting: Files that may wait for a process; `OverloadedError` for more.
        rest_after_s: Seconds without a file after which the processes end.
    """

    def __init__(
        self,
        processes: int = 2,
        *,
        limits: MediaLimits | None = None,
        max_waiting: int = 64,
        rest_after_s: float = 30.0,
    ) -> None:
        self._limits = limits or MediaLimits()
        program = SandboxProgram(
            "media decoder",
            "aihub.media.worker",
            ProcessLimits(self._limits.memory_mb, self._limits.cpu_s),
            {"limits": asdict(self._limits)},
        )
        self._pool = ProcessPool(program, processes, rest_after_s=rest_after_s, max_waiting=max_waiting)

    async def close(self) -> None:
        """End all processes; files being decoded fail with UnavailableError."""
        await self._pool.close()

    async def probe(self, data: bytes) -> MediaFacts:
        """Say what `data` is; see `MediaDecoder`."""
        answer = await self._do("probe", data)
        return MediaFacts(**answer.header["facts"])

    async def prepare_image(self, data: bytes, *, max_pixels: int) -> PreparedImage:
        """Decode and shrink an image; see `MediaDecoder`."""
        answer = await self._do("prepare_image", data, max_pixels=max_pixels)
        return _images(answer)[0]

    async def sample_video(self, data: bytes, *, max_frames: int, max_pixels: int, max_duration_s: float) -> SampledVideo:
        """Decode frames of a video; see `MediaDecoder`."""
        answer = await self._do("sample_video", data, max_frames=max_frames, max_pixels=max_pixels, max_duration_s=max_duration_s)
        header = answer.header
        frames = tuple(VideoFrame(image, time_s) for image, time_s in zip(_images(answer), header["times_s"], strict=True))
        return SampledVideo(frames, header["duration_s"], header["has_audio"])

    async def decode_audio(self, data: bytes | AsyncIterator[bytes], *, max_duration_s: float) -> AsyncGenerator[bytes, None]:
        """Yield samples; see `MediaDecoder`. Nothing is decoded ahead of who reads, but for what fits in a pipe."""
        whole, pieces = (data, None) if isinstance(data, bytes) else (b"", _split(data))
        header = {"task": "decode_audio", "max_duration_s": max_duration_s, "is_stream": pieces is not None}
        request = Frame(header, whole)
        async with self._pool.session() as session:
            answer = await self._next(session, request)
            while answer.header.get(CONTINUES):
                if pieces is not None and answer.header.get("more"):
                    piece = await anext(pieces, None)
                    answer = await self._next(session, Frame({"end": True}) if piece is None else Frame({}, piece))
                    continue
                yield bytes(answer.body)
                answer = await self._next(session, None)

    async def _do(self, task: str, data: bytes, **options: float) -> Frame:
        request = Frame({"task": task, **options}, data)
        async with self._pool.session() as session:
            return await self._next(session, request)

    async def _next(self, session: ProcessSession, request: Frame | None) -> Frame:
        step_s = self._limits.step_s
        try:
            answer = await (session.receive(step_s) if request is None else session.exchange(request, step_s))
        except ProcessTimeoutError as error:
            raise self._took_too_long() from error
        except ProcessDiedError as error:
            raise self._verdict(error.exit_code) from error
        if "error" in answer.header:
            raise MediaError(answer.header["error"]["message"], code=answer.header["error"]["code"])
        return answer

    def _verdict(self, exit_code: int) -> HubError:
        if exit_code == -signal.SIGXCPU:
            return self._took_too_long()
        if exit_code in {EXIT_MEMORY, -signal.SIGKILL}:
            return MediaError(
                f"Decoding the file takes more than {self._limits.memory_mb} MiB of memory; make it smaller.", code="media_memory"
            )
        if exit_code in {-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}:
            return MediaError("The file crashes its decoder; save it again with another program.")
        return UnavailableError("The media decoder ended unexpectedly; try again.")

    def _took_too_long(self) -> MediaError:
        return MediaError(
            f"Decoding the file took more than {self._limits.cpu_s} s of processor time or {self._limits.step_s:g} s for one "
            "step; make it shorter or smaller.",
            code="media_timeout",
        )


async def _split(data: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Give the pieces again, none of them empty or large."""
    async for piece in data:
        for start in range(0, len(piece), _MAX_PIECE_BYTES):
            yield piece[start : start + _MAX_PIECE_BYTES]


def _images(answer: Frame) -> list[PreparedImage]:
    images = []
    start = 0
    for size, media_type, width, height in answer.header["images"]:
        images.append(PreparedImage(bytes(answer.body[start : start + size]), media_type, width, height))
        start += size
    return images
