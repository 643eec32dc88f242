"""One part of a file through one recogniser, and Vosk's result objects as the hub's words and segments."""

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.speech.cutting import BYTES_PER_S, SAMPLE_BYTES
from aihub.speech.recognition.options import BLOCK_S, Heard, RecogniserOptions
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.recognition.recogniser import Recogniser
from aihub.speech.service import Segment, Word

_BLOCKS_PER_MESSAGE = 8
MESSAGE_BYTES = _BLOCKS_PER_MESSAGE * int(BLOCK_S * BYTES_PER_S)
"""Whole blocks, so that Kaldi gets the audio in the same blocks as from a plain loop over the file."""
_MOST_AHEAD = 4
"""Messages that wait at the recogniser, so that it never waits for the hub."""


@dataclass(frozen=True, slots=True)
class PartProgress:
    """What was heard last, and how far the part is, in seconds from its start."""

    segments: tuple[Segment, ...]
    heard_s: float


async def hear_part(
    pool: RecogniserPool, folder: Path, phrases: tuple[str, ...], audio: AsyncIterable[bytes], start_s: float
) -> AsyncGenerator[PartProgress, None]:
    """Recognise samples at `SAMPLE_RATE_HZ` in one stream.

    Args:
        folder: Of the model.
        audio: In pieces of any length.
        start_s: Added to all times.

    Raises:
        HubError: As `RecogniserPool.open` and `Recogniser.hear`.
    """
    async with await pool.open(folder, RecogniserOptions(phrases=phrases)) as recogniser:
        waiting: list[int] = []
        heard_bytes = 0
        async for message in _regroup(audio):
            await recogniser.send(message)
            waiting.append(len(message))
            if len(waiting) >= _MOST_AHEAD:
                heard = await recogniser.receive()
                heard_bytes += waiting.pop(0)
                yield PartProgress(segments_of(heard.finals, start_s), heard_bytes / BYTES_PER_S)
        for size_bytes in waiting:
            heard = await recogniser.receive()
            heard_bytes += size_bytes
            yield PartProgress(segments_of(heard.finals, start_s), heard_bytes / BYTES_PER_S)
        heard = await recogniser.finish()
        yield PartProgress(segments_of(heard.finals, start_s), heard_bytes / BYTES_PER_S)


async def hear_whole(recogniser: Recogniser, audio: bytes, sample_rate: int) -> Heard:
    """Hear samples that are all here; raises as `Recogniser.hear`."""
    message_bytes = _BLOCKS_PER_MESSAGE * int(BLOCK_S * sample_rate) * SAMPLE_BYTES
    heard = Heard()
    for start in range(0, len(audio), message_bytes):
        latest = await recogniser.hear(audio[start : start + message_bytes])
        heard = Heard(heard.finals + latest.finals, latest.partial)
    return heard


def segments_of(finals: tuple[dict[str, Any], ...], start_s: float) -> tuple[Segment, ...]:
    """Return Vosk's final results that have words as segments, `start_s` later."""
    segments = []
    for final in finals:
        words = tuple(
            Word(
                text=str(word["word"]),
                start_s=round(start_s + word["start"], 3),
                end_s=round(start_s + word["end"], 3),
                confidence=min(max(float(word["conf"]), 0.0), 1.0),
            )
            for word in final.get("result", ())
        )
        if words:
            segments.append(Segment(str(final["text"]), words[0].start_s, words[-1].end_s, words))
    return tuple(segments)


async def _regroup(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    held = bytearray()
    async for piece in pieces:
        held += piece
        while len(held) >= MESSAGE_BYTES:
            yield bytes(held[:MESSAGE_BYTES])
            del held[:MESSAGE_BYTES]
    if held:
        yield bytes(held)
