"""Long audio in parts that can be heard apart, cut at the quietest place of a window: no word is cut where there is a pause."""

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.media.service import SAMPLE_RATE_HZ

SAMPLE_BYTES = 2
BYTES_PER_S = SAMPLE_RATE_HZ * SAMPLE_BYTES

FRAME_S = 0.01
"""Loudness is measured over so long."""
_PAUSE_S = 0.3
"""A pause of this length is sought; the cut lies in its quietest place."""


GRID_S = 0.03
"""Parts begin on Kaldi's grid, so that their frames are those of the whole."""
_GRID_BYTES = int(GRID_S * SAMPLE_RATE_HZ) * SAMPLE_BYTES


@dataclass(frozen=True, slots=True)
class CutOptions:
    """Lengths in seconds.

    Attributes:
        whole_s: Audio up to here stays one part.
        shortest_s: Of a part, but the last.
        longest_s: Of a part, but where all is one.
        ahead_s: What must follow the window of a cut, so that the last part is not a scrap.
    """

    whole_s: float = 60.0
    shortest_s: float = 20.0
    longest_s: float = 40.0
    ahead_s: float = 10.0


@dataclass(frozen=True, slots=True)
class PartPiece:
    """The next samples of a part.

    Attributes:
        part: Counted from 0.
        start_s: Where the part begins in the whole.
        audio: 16-bit samples at `SAMPLE_RATE_HZ`.
    """

    part: int
    start_s: float
    audio: bytes


async def cut_at_silences(pieces: AsyncIterable[bytes], options: CutOptions) -> AsyncGenerator[PartPiece, None]:
    """Yield all samples, in order, each in one part.

    At most `whole_s` seconds of audio are held at a time.
    """
    part, part_start, sent = 0, 0, 0
    held = bytearray()
    shortest, longest, whole, ahead = (
        _bytes_of(seconds) for seconds in (options.shortest_s, options.longest_s, options.whole_s, options.ahead_s)
    )
    async for piece in pieces:
        held += piece
        while True:
            now = min(len(held), max(shortest - sent, 0))
            if now:
                yield PartPiece(part, part_start / BYTES_PER_S, _take(held, now))
                sent += now
            limit = whole if part == 0 else longest + ahead
            if sent + len(held) <= max(limit, longest):
                break
            cut = find_pause(bytes(held[: longest - sent]))
            cut = max(0, cut - (sent + cut) % _GRID_BYTES)
            yield PartPiece(part, part_start / BYTES_PER_S, _take(held, cut))
            part, part_start, sent = part + 1, part_start + sent + cut, 0
    if held:
        yield PartPiece(part, part_start / BYTES_PER_S, bytes(held))


def find_pause(audio: bytes) -> int:
    """Return where to cut, in bytes from the start: the middle of the longest of the quietest pauses."""
    energy = frame_energy(audio)
    frames = round(_PAUSE_S / FRAME_S)
    if len(energy) <= frames:
        return len(audio) // 2 // SAMPLE_BYTES * SAMPLE_BYTES
    averages = np.convolve(energy, np.full(frames, 1.0 / frames), mode="valid")
    quietest = averages.min()
    begin, end = _longest_run(averages <= quietest * 1.2 + 1.0)
    within = energy[begin : end + frames]
    pair = np.convolve(within, np.full(3, 1 / 3), mode="same")
    begin_quiet, end_quiet = _longest_run(pair <= pair.min() * 1.2 + 1.0)
    frame = begin + (begin_quiet + end_quiet) // 2
    return int(frame * FRAME_S * SAMPLE_RATE_HZ) * SAMPLE_BYTES


def frame_energy(audio: bytes, sample_rate: int = SAMPLE_RATE_HZ) -> NDArray[np.float64]:
    """Return the mean square of each 10 ms of samples; what is left over at the end is not counted."""
    samples = np.frombuffer(audio, dtype="<i2", count=len(audio) // SAMPLE_BYTES).astype(np.float64)
    frame = int(FRAME_S * sample_rate)
    whole = len(samples) // frame * frame
    return np.asarray(np.square(samples[:whole]).reshape(-1, frame).mean(axis=1))


def _longest_run(mask: NDArray[Any]) -> tuple[int, int]:
    """Return begin and end (exclusive) of the longest run of True; there is one."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - begins))
    return int(begins[longest]), int(ends[longest])


def _bytes_of(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE_HZ) * SAMPLE_BYTES


def _take(held: bytearray, size_bytes: int) -> bytes:
    taken = bytes(held[:size_bytes])
    del held[:size_bytes]
    return taken
