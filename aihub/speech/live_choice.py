"""A live stream whose language is not known: every model that may be meant hears its beginning, and the best of them goes on.

The rule is that of files (`aihub.speech.language_choice`), on less sound, because somebody waits for the words.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from aihub.core.errors import InvalidRequestError
from aihub.speech.cutting import GRID_S, SAMPLE_BYTES
from aihub.speech.hearing import hear_whole, segments_of
from aihub.speech.language_choice import Trial, choose_best, measure_likelihood
from aihub.speech.models import SpeechModel
from aihub.speech.recognition.options import BLOCK_S, Heard, RecogniserOptions
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.recognition.recogniser import Recogniser
from aihub.speech.service import Segment
from aihub.speech.sound_meter import SoundMeter
from aihub.speech.vosk_results import move_later

LIVE_TRIAL_SOUND_S = 3.0
"""Sound after which the language is decided."""
LIVE_TRIAL_PAUSE_S = 1.5
"""Quiet after a whole utterance in which it is decided on less: a short command, whose speaker waits."""
LONGEST_LIVE_TRIAL_S = 20.0
"""Audio that is kept at most; a trial ends there, and half way in the next quiet."""
_NOTHING_YET: dict[str, Any] = {"partial": ""}
Outcome = TypeVar("Outcome")


class ChoosingRecogniser:
    """Several recognisers until the language is decided, then one; used like a `Recogniser`. Open it first, close it at the end.

    The models are tried with words and confidences, whatever the client wants to get; the chosen one then hears again what was
    kept, as the client wants it, so that nothing of the beginning is lost. Audio in which no model hears a word decides nothing.

    Args:
        pool: Gives recognisers.
        models: The candidates, two or more.
        options: Of the stream.

    Attributes:
        model: What was chosen; None before.
    """

    def __init__(self, pool: RecogniserPool, models: Sequence[SpeechModel], options: RecogniserOptions) -> None:
        self._pool = pool
        self._options = options
        self._bytes_per_s = options.sample_rate * SAMPLE_BYTES
        self._step_bytes = int(BLOCK_S * options.sample_rate) * SAMPLE_BYTES
        self._trials = [_LiveTrial(model) for model in models]
        self._meter = SoundMeter(options.sample_rate)
        self._kept = bytearray()
        self._dropped_bytes = 0
        self._chosen: Recogniser | None = None
        self.model: SpeechModel | None = None

    @property
    def kept_s(self) -> float:
        """Seconds of audio that are held for the decision."""
        return len(self._kept) / self._bytes_per_s

    async def open(self) -> None:
        """Begin to listen with every candidate that knows the phrases; decided at once where only one does.

        Raises:
            InvalidRequestError: None of the models knows the phrases.
            HubError: As `RecogniserPool.open`.
        """
        await self._open_trials()
        if len(self._trials) == 1:
            await self._go_on_with(self._trials[0].model)

    async def hear(self, audio: bytes) -> Heard:
        """Listen to the next samples; nothing is told before the language is decided, then all of the beginning.

        Raises:
            RecogniserDiedError: A candidate ended; the others are of no use then, since the language may be its own.
        """
        heard = Heard(partial=_NOTHING_YET)
        while self._chosen is None and audio:
            piece, audio = audio[: self._step_bytes], audio[self._step_bytes :]
            await self._try(piece)
            if self._is_ripe():
                heard = await self._decide() or heard
        if self._chosen is None or (not audio and heard.partial is not _NOTHING_YET):
            return heard
        after = await self._chosen.hear(audio)
        return Heard(heard.finals + self._shifted(after).finals, self._shifted(after).partial)

    async def finish(self) -> Heard:
        """Decide, if that is still to be done, and return what was still open; raises as `hear`."""
        heard = Heard()
        if self._chosen is None:
            heard = await self._decide(is_last=True) or heard
        assert self._chosen is not None  # noqa: S101  # the last decision always chooses
        return Heard(heard.finals + self._shifted(await self._chosen.finish()).finals)

    def close(self) -> None:
        """Let go of all recognisers."""
        for trial in self._trials:
            trial.close()
        if self._chosen is not None:
            self._chosen.close()

    def _is_ripe(self) -> bool:
        """Whether enough was said, or nothing is being said: trials never end within a word, but at their longest."""
        is_quiet = self._meter.quiet_s >= LIVE_TRIAL_PAUSE_S
        has_utterance = any(trial.segments for trial in self._trials)
        return (
            self._meter.sound_s >= LIVE_TRIAL_SOUND_S
            or (is_quiet and (has_utterance or self.kept_s >= LONGEST_LIVE_TRIAL_S / 2))
            or self.kept_s >= LONGEST_LIVE_TRIAL_S
        )

    async def _try(self, audio: bytes) -> None:
        self._kept += audio
        self._meter.add(audio)
        await _gather(trial.hear(audio) for trial in self._trials)

    async def _decide(self, *, is_last: bool = False) -> Heard | None:
        """Choose, and return what the chosen model hears in what was kept; None where nothing was said yet."""
        await _gather(trial.finish() for trial in self._trials)
        trials = [Trial(trial.model, tuple(trial.segments)) for trial in self._trials]
        if not is_last and not any(trial.score for trial in trials):
            await self._begin_again()
            return None
        best = await choose_best(trials, self._measure)
        return await self._go_on_with(best.model)

    async def _measure(self, trial: Trial) -> float:
        options = RecogniserOptions(sample_rate=self._options.sample_rate, phrases=self._options.phrases)
        return await measure_likelihood(self._pool, trial.model, options, bytes(self._kept))

    async def _go_on_with(self, model: SpeechModel) -> Heard:
        for trial in self._trials:
            trial.close()
        self._chosen = await self._pool.open(model.folder, self._options)
        heard = await hear_whole(self._chosen, bytes(self._kept), self._options.sample_rate)
        self.model = model
        self._trials.clear()
        self._kept.clear()
        return self._shifted(heard)

    async def _begin_again(self) -> None:
        """Try anew from the last 1.5 s on: what came before has no words, but one may have begun."""
        dropped_bytes = max(0, len(self._kept) - int(LIVE_TRIAL_PAUSE_S * self._options.sample_rate) * SAMPLE_BYTES)
        dropped_bytes -= dropped_bytes % (int(GRID_S * self._options.sample_rate) * SAMPLE_BYTES)
        del self._kept[:dropped_bytes]
        self._dropped_bytes += dropped_bytes
        self._meter = SoundMeter(self._options.sample_rate)
        for trial in self._trials:
            trial.close()
        await self._open_trials()
        await _gather(trial.hear(bytes(self._kept)) for trial in self._trials)

    async def _open_trials(self) -> None:
        options = RecogniserOptions(sample_rate=self._options.sample_rate, phrases=self._options.phrases)
        refusals = await _gather(trial.open(self._pool, options) for trial in self._trials)
        able = [trial for trial, refusal in zip(self._trials, refusals, strict=True) if refusal is None]
        if not able:
            raise next(refusal for refusal in refusals if refusal is not None)
        self._trials = able

    def _shifted(self, heard: Heard) -> Heard:
        """Return results with the times of the whole stream: the chosen recogniser counts from what was kept on."""
        if not self._dropped_bytes:
            return heard
        by_s = self._dropped_bytes / self._bytes_per_s
        partial = None if heard.partial is None else move_later(heard.partial, by_s)
        return Heard(tuple(move_later(final, by_s) for final in heard.finals), partial)


class _LiveTrial:
    """One candidate while it is tried."""

    def __init__(self, model: SpeechModel) -> None:
        self.model = model
        self.segments: list[Segment] = []
        self._recogniser: Recogniser | None = None

    async def open(self, pool: RecogniserPool, options: RecogniserOptions) -> InvalidRequestError | None:
        """Begin; returns the refusal of a model that does not know the phrases."""
        self.segments.clear()
        try:
            self._recogniser = await pool.open(self.model.folder, options)
        except InvalidRequestError as refusal:
            return refusal
        return None

    async def hear(self, audio: bytes) -> None:
        assert self._recogniser is not None  # noqa: S101  # opened
        self.segments.extend(segments_of((await self._recogniser.hear(audio)).finals, 0.0))

    async def finish(self) -> None:
        assert self._recogniser is not None  # noqa: S101  # opened
        self.segments.extend(segments_of((await self._recogniser.finish()).finals, 0.0))

    def close(self) -> None:
        if self._recogniser is not None:
            self._recogniser.close()


async def _gather(works: Iterable[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    """Do all at once; when one fails or the caller is cancelled, the others are ended before that is told."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
