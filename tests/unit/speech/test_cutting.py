"""Cutting long audio at silences: every sample is in one part, and cuts lie in pauses."""

from collections.abc import AsyncGenerator

import numpy as np
import pytest

from aihub.speech.cutting import BYTES_PER_S, CutOptions, PartPiece, cut_at_silences, find_pause
from tests.speech_data import silence

OPTIONS = CutOptions(whole_s=6, shortest_s=2, longest_s=4, ahead_s=1)


def noise(seconds: float, level: float = 3000.0, seed: int = 0) -> bytes:
    samples = np.random.default_rng(seed).normal(0, level, int(seconds * BYTES_PER_S / 2))
    return samples.clip(-32768, 32767).astype("<i2").tobytes()


async def in_pieces(audio: bytes, piece_s: float) -> AsyncGenerator[bytes, None]:
    size = int(piece_s * BYTES_PER_S / 2) * 2
    for start in range(0, len(audio), size):
        yield audio[start : start + size]


async def cut(audio: bytes, piece_s: float = 0.5) -> list[tuple[float, bytes]]:
    """Return start and samples of each part."""
    pieces: list[PartPiece] = [piece async for piece in cut_at_silences(in_pieces(audio, piece_s), OPTIONS)]
    parts: dict[int, tuple[float, bytes]] = {}
    for piece in pieces:
        start_s, before = parts.get(piece.part, (piece.start_s, b""))
        parts[piece.part] = start_s, before + piece.audio
    assert list(parts) == list(range(len(parts)))
    return list(parts.values())


@pytest.mark.parametrize("piece_s", [0.013, 0.5, 30.0])
@pytest.mark.parametrize("seconds", [0.0, 0.01, 1.9, 6.0, 6.01, 17.3])
async def test_every_sample_is_in_one_part(seconds: float, piece_s: float) -> None:
    audio = noise(seconds)
    parts = await cut(audio, piece_s)
    assert b"".join(samples for _, samples in parts) == audio
    starts = [0.0, *np.cumsum([len(samples) / BYTES_PER_S for _, samples in parts])]
    assert [start_s for start_s, _ in parts] == pytest.approx(starts[: len(parts)])
    assert all(len(samples) % 2 == 0 for _, samples in parts)


async def test_short_audio_stays_whole() -> None:
    assert len(await cut(noise(2.9) + silence(0.2) + noise(2.9))) == 1


async def test_long_audio_is_cut_within_the_pause_of_the_window() -> None:
    audio = noise(3.1) + silence(0.3) + noise(4.0) + silence(0.3) + noise(4)
    starts = [start_s for start_s, _ in await cut(audio)]
    assert 3.1 < starts[1] < 3.4
    assert all(start - before >= OPTIONS.shortest_s for before, start in zip(starts, starts[1:], strict=False))


async def test_pause_in_background_noise_is_found() -> None:
    audio = noise(2.5) + noise(0.35, level=300, seed=1) + noise(4, seed=2)
    cut_s = find_pause(audio) / BYTES_PER_S
    assert 2.5 <= cut_s <= 2.85


async def test_long_pause_is_cut_in_its_middle() -> None:
    cut_s = find_pause(noise(1) + silence(0.31) + noise(1) + silence(2) + noise(1)) / BYTES_PER_S
    assert cut_s == pytest.approx(3.31, abs=0.1)


async def test_audio_without_a_pause_is_cut_all_the_same() -> None:
    parts = await cut(noise(30))
    assert all(len(samples) <= OPTIONS.whole_s * BYTES_PER_S for _, samples in parts)
    assert len(parts) > 5
