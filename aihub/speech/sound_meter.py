"""How much of an audio that comes in pieces of any length is loud enough to be speech."""

import numpy as np

from aihub.speech.cutting import FRAME_S, SAMPLE_BYTES, frame_energy

QUIETEST_LEVEL = 60.0
"""Root mean square of 16-bit samples; 55 dB below the loudest."""


class SoundMeter:
    """Counts one audio.

    Args:
        sample_rate: Hz.

    Attributes:
        sound_s: Seconds that were loud.
        quiet_s: Seconds since the last of them.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._frame_bytes = int(FRAME_S * sample_rate) * SAMPLE_BYTES
        self._rest = b""
        self.sound_s = 0.0
        self.quiet_s = 0.0

    def add(self, audio: bytes) -> None:
        """Count the next samples."""
        audio = self._rest + audio
        whole_bytes = len(audio) // self._frame_bytes * self._frame_bytes
        self._rest = audio[whole_bytes:]
        energy = frame_energy(audio[:whole_bytes], self._sample_rate)
        loud = np.flatnonzero(energy >= QUIETEST_LEVEL**2)
        if len(loud):
            self.sound_s += len(loud) * FRAME_S
            self.quiet_s = float(len(energy) - 1 - loud[-1]) * FRAME_S
        else:
            self.quiet_s += len(energy) * FRAME_S
