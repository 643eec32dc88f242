"""What one live stream does with the bytes that come: bare samples go to its recogniser, files are decoded while they come."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from aihub.core.concurrency import cancel
from aihub.core.errors import InvalidRequestError
from aihub.media.service import SAMPLE_RATE_HZ, MediaDecoder
from aihub.speech.recognition.options import Heard
from aihub.speech.service import LiveOptions, LiveResult

_SAMPLE_BYTES = 2
_MOST_PIECES_AHEAD = 8
"""Pieces of a file that wait for the decoder before the sender has to wait."""


class SampleRecogniser(Protocol):
    """What hears samples: one recogniser, or several until the language is decided."""

    async def hear(self, audio: bytes) -> Heard: ...

    async def finish(self) -> Heard: ...

    def close(self) -> None: ...


class OpenStream(Protocol):
    """A stream that hears. One call at a time, except `close`."""

    @property
    def heard_s(self) -> float:
        """Seconds of audio so far."""
        ...

    async def feed(self, data: bytes) -> LiveResult: ...

    async def finish(self) -> LiveResult: ...

    async def close(self) -> None:
        """End the recogniser."""
        ...


class SampleStream:
    """Bare 16-bit samples of one channel.

    Args:
        recogniser: Open, at `sample_rate`.
        sample_rate: Hz.
        max_audio_s: Longest stream.
    """

    def __init__(self, recogniser: SampleRecogniser, sample_rate: int, *, max_audio_s: float) -> None:
        self._recogniser = recogniser
        self._bytes_per_s = sample_rate * _SAMPLE_BYTES
        self._max_audio_s = max_audio_s
        self._heard_bytes = 0
        self._rest = b""

    @staticmethod
    def sample_rate_of(options: LiveOptions) -> int:
        """Hz of what the recogniser gets."""
        return options.sample_rate

    @property
    def heard_s(self) -> float:
        """Seconds of audio so far."""
        return self._heard_bytes / self._bytes_per_s

    async def feed(self, data: bytes) -> LiveResult:
        """Hear samples; half of one waits for the next piece.

        Raises:
            InvalidRequestError: The stream is longer than is allowed.
            RecogniserDiedError: The recogniser ended.
        """
        data = self._rest + data
        whole_bytes = len(data) // _SAMPLE_BYTES * _SAMPLE_BYTES
        self._rest = data[whole_bytes:]
        self._heard_bytes += whole_bytes
        if self.heard_s > self._max_audio_s:
            raise InvalidRequestError(
                f"A live stream lasts at most {self._max_audio_s:.0f} s. Open a new one.", code="stream_too_long"
            )
        return _result(await self._recogniser.hear(data[:whole_bytes]))

    async def finish(self) -> LiveResult:
        """Return what was still open; raises as `feed`."""
        return _result(await self._recogniser.finish())

    async def close(self) -> None:
        """End the recogniser."""
        self._recogniser.close()


class ContainerStream:
    """A file that is decoded while it comes in. What a piece brings may come with a later one, as decoders read ahead.

    Args:
        recogniser: Open, at `SAMPLE_RATE_HZ`.
        decoder: Decodes the file.
        max_audio_s: Longest audio.
    """

    def __init__(self, recogniser: SampleRecogniser, decoder: MediaDecoder, *, max_audio_s: float) -> None:
        self._samples = SampleStream(recogniser, SAMPLE_RATE_HZ, max_audio_s=max_audio_s)
        self._decoder = decoder
        self._max_audio_s = max_audio_s
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_MOST_PIECES_AHEAD)
        self._finals: list[dict[str, Any]] = []
        self._partial: dict[str, Any] | None = None
        self._work = asyncio.create_task(self._decode())

    @staticmethod
    def sample_rate_of(options: LiveOptions) -> int:
        """Hz of what the recogniser gets."""
        return SAMPLE_RATE_HZ

    @property
    def heard_s(self) -> float:
        """Seconds of audio so far."""
        return self._samples.heard_s

    async def feed(self, data: bytes) -> LiveResult:
        """Take the next bytes of the file, as soon as the decoder is near enough, and return what was heard meanwhile.

        Raises:
            MediaError: The bytes are no audio that is read here.
            RecogniserDiedError: The recogniser ended.
        """
        await self._put(data)
        return self._take()

    async def finish(self) -> LiveResult:
        """Hear the file to its end; raises as `feed`."""
        await self._put(None)
        await asyncio.shield(self._work)
        last = await self._samples.finish()
        taken = self._take()
        return LiveResult(taken.finals + last.finals)

    async def close(self) -> None:
        """End decoder and recogniser."""
        try:
            await cancel(self._work)
        finally:
            await self._samples.close()

    async def _put(self, data: bytes | None) -> None:
        """Hand bytes to the decoder, unless it has ended before they are taken."""
        putting = asyncio.create_task(self._pieces.put(data))
        try:
            await asyncio.wait({putting, self._work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if self._work.done():
            self._work.result()

    async def _decode(self) -> None:
        async with aclosing(self._decoder.decode_audio(self._arriving(), max_duration_s=self._max_audio_s)) as decoded:
            async for samples in decoded:
                result = await self._samples.feed(samples)
                self._finals.extend(result.finals)
                self._partial = result.partial

    async def _arriving(self) -> AsyncGenerator[bytes, None]:
        while (piece := await self._pieces.get()) is not None:
            yield piece

    def _take(self) -> LiveResult:
        finals, self._finals = tuple(self._finals), []
        return LiveResult(finals, self._partial)


def _result(heard: Heard) -> LiveResult:
    return LiveResult(heard.finals, heard.partial)
