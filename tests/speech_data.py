"""Real speech for tests: small Vosk models and utterances with transcripts, beside the repository; without them, skip."""

import json
import os
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from aihub.media.service import SAMPLE_RATE_HZ, MediaError, MediaFacts, PreparedImage, SampledVideo

SHARED_DATA = Path(os.environ.get("AIHUB_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SPEECH_FOLDER = SHARED_DATA.parent / "vosk"
_BYTES_PER_S = 2 * SAMPLE_RATE_HZ
_LOUD = 300


@dataclass(frozen=True, slots=True)
class Utterance:
    """What was said, and the samples: 16 kHz, 16 bits, one channel."""

    transcript: str
    samples: bytes
    is_noisy: bool

    @property
    def duration_s(self) -> float:
        """Length of the audio."""
        return len(self.samples) / _BYTES_PER_S


def speech_model(language: str) -> Path:
    """Return the folder of the small model of a language (`en`, `vi`); skips the test without one."""
    folder = SPEECH_FOLDER / f"tiny-{language}"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set AIHUB_SHARED_DATA to the `data` folder beside the folder `vosk` of small models")
    return folder


def utterances(language: str) -> list[Utterance]:
    """Return the test utterances of a language; skips the test without them."""
    folder = speech_model(language).parent / f"utterances-{language}"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        Utterance(row["transcript"], read_samples((folder / row["file"]).read_bytes()), "noise" in row["condition"])
        for row in rows
    ]


def read_samples(wav: bytes) -> bytes:
    """Return the samples of a WAV file."""
    with wave.open(BytesIO(wav)) as file:
        return file.readframes(file.getnframes())


def wav_of(samples: bytes) -> bytes:
    """Return samples as a WAV file."""
    target = BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(samples)
    return target.getvalue()


@dataclass(frozen=True, slots=True)
class Said:
    """An utterance of a recording, and when its sound begins and ends."""

    text: str
    start_s: float
    end_s: float


def record_utterances(language: str, *, pause_s: float = 1.5) -> tuple[bytes, list[Said]]:
    """Return a WAV of the clear utterances of a language with pauses between, and where each is; skips the test without them."""
    samples, said = bytearray(), []
    for utterance in utterances(language):
        if not utterance.is_noisy:
            loud = np.flatnonzero(np.abs(np.frombuffer(utterance.samples, "<i2").astype(np.int32)) > _LOUD)
            start_s = len(samples) / _BYTES_PER_S
            said.append(Said(utterance.transcript, start_s + loud[0] / SAMPLE_RATE_HZ, start_s + loud[-1] / SAMPLE_RATE_HZ))
            samples += utterance.samples + silence(pause_s)
    return wav_of(bytes(samples)), said


def silence(seconds: float) -> bytes:
    """Return samples of digital silence."""
    return bytes(int(seconds * SAMPLE_RATE_HZ) * 2)


class WaveDecoder:
    """A `MediaDecoder` for WAV files of the right rate, for tests of what comes after decoding."""

    async def probe(self, data: bytes) -> MediaFacts:
        return MediaFacts("audio", "wav", duration_s=len(self._read(data)) / _BYTES_PER_S, has_audio=True)

    async def prepare_image(self, data: bytes, *, max_pixels: int) -> PreparedImage:
        raise NotImplementedError

    async def decode_audio(self, data: bytes | AsyncIterator[bytes], *, max_duration_s: float) -> AsyncGenerator[bytes, None]:
        if not isinstance(data, bytes):
            first = True
            async for piece in data:
                yield piece[44:] if first else piece
                first = False
            return
        samples = self._read(data)
        if len(samples) > max_duration_s * _BYTES_PER_S:
            raise MediaError("The audio is too long.", code="media_too_long")
        for start in range(0, len(samples), _BYTES_PER_S // 2):
            yield samples[start : start + _BYTES_PER_S // 2]

    async def sample_video(self, data: bytes, *, max_frames: int, max_pixels: int, max_duration_s: float) -> SampledVideo:
        raise NotImplementedError

    @staticmethod
    def _read(data: bytes) -> bytes:
        try:
            return read_samples(data)
        except (wave.Error, EOFError) as error:
            raise MediaError("This is no audio that is read here.") from error
