"""Sound is told from silence, however the audio is cut into pieces."""

import numpy as np
import pytest

from aihub.speech.sound_meter import SoundMeter


def noise(seconds: float, sample_rate: int, level: float = 3000.0) -> bytes:
    samples = np.random.default_rng(1).normal(0, level, int(seconds * sample_rate))
    return samples.clip(-32768, 32767).astype("<i2").tobytes()


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("piece_bytes", [46, 4000, 1_000_000])
def test_sound_and_the_quiet_after_it_are_counted(sample_rate: int, piece_bytes: int) -> None:
    silence = bytes(3 * sample_rate * 2)
    audio = noise(2, sample_rate) + silence + noise(1, sample_rate, level=10)
    meter = SoundMeter(sample_rate)
    for start in range(0, len(audio), piece_bytes):
        meter.add(audio[start : start + piece_bytes])
    assert meter.sound_s == pytest.approx(2, abs=0.05)
    assert meter.quiet_s == pytest.approx(4, abs=0.05)
    meter.add(noise(0.5, sample_rate))
    assert meter.quiet_s == pytest.approx(0, abs=0.05)
