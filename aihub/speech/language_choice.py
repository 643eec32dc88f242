"""Which of several models hears an audio best: each hears its beginning, and the one that is surest of most of the sound wins."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from aihub.core.errors import InvalidRequestError
from aihub.speech.cutting import BYTES_PER_S, sounding_s
from aihub.speech.hearing import hear_part
from aihub.speech.models import SpeechModel
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.service import Segment

TRIAL_SOUND_S = 10.0
LONGEST_TRIAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first samples of an audio, as many as hold ten seconds of sound.

    Attributes:
        audio: Samples at `SAMPLE_RATE_HZ`.
        is_all: Nothing follows.
    """

    audio: bytes
    is_all: bool


@dataclass(frozen=True, slots=True)
class Trial:
    """What one model heard in the beginning."""

    model: SpeechModel
    segments: tuple[Segment, ...]

    @property
    def score(self) -> float:
        """Seconds of words, each counted by the square of its confidence: a model in a foreign language guesses."""
        words = [word for segment in self.segments for word in segment.words]
        return sum((word.end_s - word.start_s) * word.confidence**2 for word in words)


async def read_beginning(pieces: AsyncIterator[bytes]) -> Beginning:
    """Take samples off `pieces` until they hold `TRIAL_SOUND_S` of sound, last `LONGEST_TRIAL_S`, or end."""
    audio = bytearray()
    sound_s = 0.0
    async for piece in pieces:
        audio += piece
        sound_s += sounding_s(piece)
        if sound_s >= TRIAL_SOUND_S or len(audio) >= LONGEST_TRIAL_S * BYTES_PER_S:
            return Beginning(bytes(audio), is_all=False)
    return Beginning(bytes(audio), is_all=True)


async def choose_by_hearing(
    pool: RecogniserPool, places: asyncio.Semaphore, models: list[SpeechModel], phrases: tuple[str, ...], beginning: Beginning
) -> Trial:
    """Let every model hear the beginning and return the best; the first one where nothing is heard.

    Models that do not know the phrases are passed over.

    Raises:
        HubError: As `hear_part`; of the phrases, where no model knows them.
    """
    trials = [asyncio.create_task(_try(pool, places, model, phrases, beginning.audio)) for model in models]
    try:
        outcomes = await asyncio.gather(*(_or_refusal(trial) for trial in trials))
    finally:
        for trial in trials:
            trial.cancel()
        await asyncio.gather(*trials, return_exceptions=True)
    results = [outcome for outcome in outcomes if isinstance(outcome, Trial)]
    if not results:
        raise next(outcome for outcome in outcomes if isinstance(outcome, InvalidRequestError))
    return max(results, key=lambda result: result.score)


async def _or_refusal(trial: "asyncio.Task[Trial]") -> Trial | InvalidRequestError:
    try:
        return await trial
    except InvalidRequestError as refusal:
        return refusal


async def _try(
    pool: RecogniserPool, places: asyncio.Semaphore, model: SpeechModel, phrases: tuple[str, ...], audio: bytes
) -> Trial:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield audio

    segments: list[Segment] = []
    async with places, aclosing(hear_part(pool, model.folder, phrases, whole(), 0.0)) as heard:
        async for progress in heard:
            segments.extend(progress.segments)
    return Trial(model, tuple(segments))
