"""The bare package, as its own examples use it: what `make bench-speech` compares with. Run by itself, it prints its memory."""

import argparse
import json
import time
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SAMPLE_RATE_HZ = 16_000
BYTES_PER_S = 2 * SAMPLE_RATE_HZ
BLOCK_BYTES = BYTES_PER_S // 4
"""Of Vosk's `test_simple.py`: 4000 samples."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What was heard in one audio, and the seconds that took."""

    text: str
    took_s: float


def load(folder: Path) -> Any:
    """Load a Vosk model, without its log."""
    import vosk

    vosk.SetLogLevel(-1)
    return vosk.Model(str(folder))


def hear(model: Any, samples: bytes) -> Hearing:
    """Hear samples of 16 kHz, 16 bits and one channel."""
    started_s = time.perf_counter()
    recogniser = _open(model)
    texts = [_text(recogniser.Result()) for block in blocks(samples) if recogniser.AcceptWaveform(block)]
    texts.append(_text(recogniser.FinalResult()))
    return Hearing(" ".join(text for text in texts if text), time.perf_counter() - started_s)


def blocks(samples: bytes) -> Iterator[bytes]:
    """Yield samples as the examples read them."""
    yield from (samples[start : start + BLOCK_BYTES] for start in range(0, len(samples), BLOCK_BYTES))


def read_samples(path: Path) -> bytes:
    """Return the samples of a WAV file of 16 kHz, 16 bits and one channel.

    Raises:
        ValueError: It is another.
    """
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (SAMPLE_RATE_HZ, 1, 2):
            raise ValueError(f"{path} is no WAV file of 16 kHz, 16 bits and one channel.")
        return file.readframes(file.getnframes())


def _open(model: Any) -> Any:
    import vosk

    recogniser = vosk.KaldiRecognizer(model, SAMPLE_RATE_HZ)
    recogniser.SetWords(True)
    return recogniser


def _text(result: str) -> str:
    text: str = json.loads(result)["text"]
    return text


def measure_memory(folder: Path, samples: bytes, streams: int) -> float:
    """Return the bytes that each of several open recognisers holds after hearing `samples`; the model is not counted."""
    model = load(folder)
    hear(model, samples)
    process = psutil.Process()
    before = process.memory_full_info().uss
    recognisers = [_open(model) for _ in range(streams)]
    for block in blocks(samples):
        for recogniser in recognisers:
            recogniser.AcceptWaveform(block)
            recogniser.PartialResult()
    return float(process.memory_full_info().uss - before) / streams


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--streams", type=int, required=True)
    options = parser.parse_args(arguments)
    print(measure_memory(options.model, read_samples(options.audio), options.streams))


if __name__ == "__main__":
    main()
