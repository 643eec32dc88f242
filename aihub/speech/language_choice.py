"""Which of several models hears an audio best: each hears its beginning, and the one that is surest of most of the sound wins.

Of a word or two a foreign model may be as sure. Where two are near, the one whose best path has the higher likelihood wins: the
models share Kaldi's frames and scales, so that likelihoods compare well enough to tell a language from one that is not spoken.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from aihub.core.errors import InvalidRequestError
from aihub.media.service import SAMPLE_RATE_HZ
from aihub.speech.cutting import BYTES_PER_S
from aihub.speech.hearing import hear_part, hear_whole
from aihub.speech.models import SpeechModel
from aihub.speech.places import Places
from aihub.speech.recognition.options import RecogniserOptions
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.service import Segment
from aihub.speech.sound_meter import SoundMeter

TRIAL_SOUND_S = 10.0
LONGEST_TRIAL_S = 60.0
NEAR = 1.5
"""Scores that differ by no more than this factor do not decide."""


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
    meter = SoundMeter(SAMPLE_RATE_HZ)
    async for piece in pieces:
        audio += piece
        meter.add(piece)
        if meter.sound_s >= TRIAL_SOUND_S or len(audio) >= LONGEST_TRIAL_S * BYTES_PER_S:
            return Beginning(bytes(audio), is_all=False)
    return Beginning(bytes(audio), is_all=True)


async def choose_by_hearing(
    pool: RecogniserPool, places: Places, models: list[SpeechModel], phrases: tuple[str, ...], beginning: Beginning
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

    async def measure(trial: Trial) -> float:
        async with places:
            return await measure_likelihood(pool, trial.model, RecogniserOptions(phrases=phrases), beginning.audio)

    return await choose_best(results, measure)


async def choose_best(trials: Sequence[Trial], measure: Callable[[Trial], Awaitable[float]]) -> Trial:
    """Return the trial with the highest score, the first where nothing is heard.

    Of several near the highest, the one of which `measure` returns most.
    """
    best = max(trials, key=lambda trial: trial.score)
    near = [trial for trial in trials if trial.score > 0 and trial.score * NEAR >= best.score]
    if len(near) < 2:
        return best
    likelihoods = [await measure(trial) for trial in near]
    return near[likelihoods.index(max(likelihoods))]


async def measure_likelihood(pool: RecogniserPool, model: SpeechModel, options: RecogniserOptions, audio: bytes) -> float:
    """Return the log likelihood of the best path, which Vosk tells with alternatives only; raises as `Recogniser.hear`."""
    async with await pool.open(model.folder, replace(options, max_alternatives=1)) as recogniser:
        heard = await hear_whole(recogniser, audio, options.sample_rate)
        finals = [*heard.finals, *(await recogniser.finish()).finals]
    return sum(float(final["alternatives"][0]["confidence"]) for final in finals if final.get("alternatives"))


async def _or_refusal(trial: "asyncio.Task[Trial]") -> Trial | InvalidRequestError:
    try:
        return await trial
    except InvalidRequestError as refusal:
        return refusal


async def _try(pool: RecogniserPool, places: Places, model: SpeechModel, phrases: tuple[str, ...], audio: bytes) -> Trial:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield audio

    segments: list[Segment] = []
    async with places, aclosing(hear_part(pool, model.folder, phrases, whole(), 0.0)) as heard:
        async for progress in heard:
            segments.extend(progress.segments)
    return Trial(model, tuple(segments))
