"""Models and utterances that `make bench-speech` measures with."""

import io
import json
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aihub.core.settings import Settings
from aihub.media.decoder import SandboxedDecoder
from aihub.models.store.speech_models import open_speech_models
from aihub.speech.engine import SpeechEngine, SpeechPlaces
from aihub.speech.models import SpeechModel, SpeechModels
from aihub.speech.settings import SpeechSettings
from benchmarks.bare_vosk import BYTES_PER_S, SAMPLE_RATE_HZ, read_samples
from benchmarks.retrieval_quality import DATA

TEST_MODELS = DATA.parent / "vosk"
"""Small models with their utterances; they know some forty words."""

PAUSE = bytes(BYTES_PER_S // 2)


@dataclass(frozen=True, slots=True)
class Utterance:
    """What was said, as samples of 16 kHz, 16 bits and one channel."""

    transcript: str
    samples: bytes

    @property
    def seconds(self) -> float:
        return len(self.samples) / BYTES_PER_S


@dataclass(frozen=True, slots=True)
class Corpus:
    """Utterances of one folder."""

    name: str
    language: str
    utterances: list[Utterance]


def speech_folder() -> Path | None:
    """Return the operator's folder of models, or that of the test models where there is none."""
    chosen = Settings().speech_model
    return chosen or (TEST_MODELS if TEST_MODELS.is_dir() else None)


def installed_models() -> SpeechModels:
    """Return what a hub of this state folder would recognise with."""
    return SpeechModels(open_speech_models(Settings().model_copy(update={"speech_model": speech_folder()})))


def find_models() -> list[SpeechModel]:
    """Return the models.

    Raises:
        SystemExit: There is none.
    """
    models = installed_models().find()
    if not models:
        raise SystemExit(
            "No speech model is here: install one (aihub models download vosk:en), or set AIHUB_SHARED_DATA to the folder beside "
            f"which `{TEST_MODELS.name}` lies."
        )
    return models


def corpora() -> Iterator[Corpus]:
    """Yield every folder of utterances: `speech-*` of the data sets, `utterances-*` of the test models."""
    for folder in sorted([*DATA.glob("speech-*"), *TEST_MODELS.glob("utterances-*")]):
        if (folder / "manifest.jsonl").is_file():
            rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
            found = [Utterance(row["transcript"], read_samples(folder / row["file"])) for row in rows]
            yield Corpus(folder.name, folder.name.rsplit("-", 1)[1], found)


def speech_of(language: str, seconds: float) -> Utterance:
    """Return utterances of a language one after the other, with pauses of half a second, for about so long."""
    said = [utterance for corpus in corpora() if corpus.language == language for utterance in corpus.utterances]
    if not said:
        raise SystemExit(f"No utterances of {language!r} are here: set AIHUB_SHARED_DATA.")
    samples, texts = bytearray(), []
    while len(samples) < seconds * BYTES_PER_S:
        utterance = said[len(texts) % len(said)]
        samples += utterance.samples + PAUSE
        texts.append(utterance.transcript)
    return Utterance(" ".join(texts), bytes(samples))


def as_wav(samples: bytes) -> bytes:
    """Return samples as a WAV file."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(samples)
    return target.getvalue()


@asynccontextmanager
async def running_engine(*, max_streams: int = 8) -> AsyncIterator[SpeechEngine]:
    """Run the hub's speech engine in this process, without Ray."""
    decoder = SandboxedDecoder()
    places = SpeechPlaces(parallel_parts=2, max_streams=max_streams)
    engine = SpeechEngine(installed_models(), decoder, SpeechSettings(), places)
    try:
        yield engine
    finally:
        await engine.shut_down()
        await decoder.close()
