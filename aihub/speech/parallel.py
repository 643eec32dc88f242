"""The parts of one file, heard by several recognisers at a time and joined in order."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Coroutine
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from aihub.speech.cutting import BYTES_PER_S, CutOptions, cut_at_silences
from aihub.speech.hearing import hear_part
from aihub.speech.places import Places
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.service import TranscriptionEnd, TranscriptionProgress


class _Part:
    """One part: samples go in while it is cut, what is heard comes out; both end with None."""

    def __init__(self, start_s: float) -> None:
        self.start_s = start_s
        # Unbounded, but a part has a longest length.
        self.audio: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.heard: asyncio.Queue[TranscriptionProgress | Exception | None] = asyncio.Queue()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        while (piece := await self.audio.get()) is not None:
            yield piece

    async def results(self) -> AsyncGenerator[TranscriptionProgress, None]:
        while (item := await self.heard.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


class ParallelHearing:
    """Hears one file.

    Args:
        pool: Gives recognisers.
        places: Held by each part that is heard; all files share them.
        folder: Of the model.
        phrases: To listen for.
        cuts: How long parts are.
    """

    def __init__(self, pool: RecogniserPool, places: Places, folder: Path, phrases: tuple[str, ...], cuts: CutOptions) -> None:
        self._pool = pool
        self._places = places
        self._folder = folder
        self._phrases = phrases
        self._cuts = cuts
        self._parts: asyncio.Queue[_Part | Exception | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._duration_s = 0.0

    async def run(self, pieces: AsyncIterable[bytes]) -> AsyncGenerator[TranscriptionProgress | TranscriptionEnd, None]:
        """Yield what is heard, in order; closing the generator ends the work at once.

        Args:
            pieces: Samples at `SAMPLE_RATE_HZ`.

        Raises:
            HubError: As `hear_part`, or what `pieces` raises.
        """
        self._start(self._cut(pieces))
        try:
            while (part := await self._parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                async with aclosing(part.results()) as results:
                    async for progress in results:
                        yield progress
            yield TranscriptionEnd(self._duration_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _cut(self, pieces: AsyncIterable[bytes]) -> None:
        """Read and cut the samples. Waits for a place before each part: a file is decoded no faster than it is heard."""
        part: _Part | None = None
        number = -1
        try:
            async with aclosing(cut_at_silences(pieces, self._cuts)) as cut:
                async for piece in cut:
                    if part is None or piece.part != number:
                        if part is not None:
                            part.audio.put_nowait(None)
                        is_first = part is None
                        await self._places.acquire(is_first=is_first)
                        part, number = _Part(piece.start_s), piece.part
                        # Also given back by a task that is cancelled before it begins.
                        self._start(self._hear(part)).add_done_callback(partial(self._release, is_first))
                        self._parts.put_nowait(part)
                    part.audio.put_nowait(piece.audio)
                    self._duration_s += len(piece.audio) / BYTES_PER_S
        except Exception as error:  # noqa: BLE001  # raised again where the file is read, after what was heard before it
            (self._parts if part is None else part.heard).put_nowait(error)
            return
        if part is not None:
            part.audio.put_nowait(None)
        self._parts.put_nowait(None)

    def _release(self, is_first: bool, _: "asyncio.Task[None]") -> None:
        self._places.release(is_first=is_first)

    async def _hear(self, part: _Part) -> None:
        """Hear one part, in the place that was taken for it."""
        try:
            async with aclosing(hear_part(self._pool, self._folder, self._phrases, part.pieces(), part.start_s)) as heard:
                async for progress in heard:
                    done_s = part.start_s + progress.heard_s
                    for segment in progress.segments:
                        part.heard.put_nowait(TranscriptionProgress(segment, done_s))
                    if not progress.segments:
                        part.heard.put_nowait(TranscriptionProgress(None, done_s))
        except Exception as error:  # noqa: BLE001  # raised again where the file is read
            part.heard.put_nowait(error)
        else:
            part.heard.put_nowait(None)
