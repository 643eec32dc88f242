"""Live streams: each holds its recogniser from its begin to its end, and is closed when nothing comes for a while."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from aihub.core.errors import InvalidRequestError, NotFoundError, OverloadedError
from aihub.core.principal import Principal
from aihub.media.service import MediaDecoder
from aihub.speech.live_choice import ChoosingRecogniser
from aihub.speech.live_stream import ContainerStream, OpenStream, SampleRecogniser, SampleStream
from aihub.speech.models import SpeechModel
from aihub.speech.recognition.options import RecogniserOptions
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.service import AUTO_MODEL, LiveOptions, LiveResult, LiveStream

LOWEST_SAMPLE_RATE, HIGHEST_SAMPLE_RATE = 8_000, 48_000
MOST_ALTERNATIVES = 10
MAX_FEED_BYTES = 2**20
"""Eleven seconds at 48 kHz; live audio comes in pieces of tenths of a second."""


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """How many streams, and how long.

    Attributes:
        max_streams: Open at a time, of all tenants.
        idle_s: Seconds without audio after which one is closed.
        max_audio_s: Longest stream.
    """

    max_streams: int
    idle_s: float = 60.0
    max_audio_s: float = 4 * 3600.0


class LiveStreams:
    """All open live streams of one process.

    Args:
        pool: Gives recognisers.
        decoder: Decodes container streams.
        limits: Of the streams.
        changed: Told how many are open.
        heard: Told model and seconds of a stream that ended; `auto` for one that ended before its language was decided.
    """

    def __init__(
        self,
        pool: RecogniserPool,
        decoder: MediaDecoder,
        limits: LiveLimits,
        *,
        changed: Callable[[int], None] = lambda _: None,
        heard: Callable[[str, float], None] = lambda _model, _seconds: None,
    ) -> None:
        self._pool = pool
        self._decoder = decoder
        self._limits = limits
        self._changed = changed
        self._heard = heard
        self._streams: dict[str, _Place] = {}
        self._opening = 0

    async def open(self, principal: Principal, models: Sequence[SpeechModel], options: LiveOptions) -> LiveStream:
        """Begin a stream, which takes one place however many models hear its beginning.

        Args:
            models: One, or those of which the best is to go on.

        Raises:
            InvalidRequestError: An option is out of its range, or a model does not do it.
            OverloadedError: All places are taken.
        """
        for model in models:
            _check(model, options, is_one_of_several=len(models) > 1)
        if len(self._streams) + self._opening >= self._limits.max_streams:
            raise OverloadedError(
                f"All {self._limits.max_streams} places for live streams are taken. Retry in some seconds.", retry_after_s=5
            )
        self._opening += 1
        try:
            place = await self._open(principal, models, options)
        finally:
            self._opening -= 1
        stream_id = f"stream-{secrets.token_hex(12)}"
        self._streams[stream_id] = place
        self._await_next(stream_id)
        self._changed(len(self._streams))
        if place.model is None:
            return LiveStream(stream_id, None, None)
        return LiveStream(stream_id, place.model.info.model_id, place.model.language)

    async def feed(self, principal: Principal, stream_id: str, audio: bytes) -> LiveResult:
        """Hear the next piece; pieces of one stream are heard in the order in which they come."""
        place = self._find(principal, stream_id)
        if len(audio) > MAX_FEED_BYTES:
            raise InvalidRequestError(
                f"A piece of live audio has at most {MAX_FEED_BYTES} bytes; this one has {len(audio)}. Send smaller pieces.",
                code="audio_piece_too_large",
            )
        return await self._work(stream_id, place, audio)

    async def finish(self, principal: Principal, stream_id: str) -> LiveResult:
        """End a stream and return what was still open."""
        return await self._work(stream_id, self._find(principal, stream_id), None)

    async def close(self, principal: Principal, stream_id: str) -> None:
        """Give a stream up."""
        with suppress(NotFoundError):
            await self._drop(stream_id, self._find(principal, stream_id))

    async def close_all(self) -> None:
        """Give every stream up."""
        for stream_id, place in list(self._streams.items()):
            await self._drop(stream_id, place)

    async def _open(self, principal: Principal, models: Sequence[SpeechModel], options: LiveOptions) -> "_Place":
        kind = ContainerStream if options.encoding == "container" else SampleStream
        wanted = RecogniserOptions(
            sample_rate=kind.sample_rate_of(options),
            phrases=options.recognition.phrases,
            words=options.words,
            partials=True,
            partial_words=options.partial_words,
            max_alternatives=options.max_alternatives,
        )
        hears: SpeechModel | ChoosingRecogniser
        recogniser: SampleRecogniser
        if len(models) == 1:
            hears, recogniser = models[0], await self._pool.open(models[0].folder, wanted)
        else:
            hears = recogniser = await self._open_choice(models, wanted)
        stream: OpenStream
        if options.encoding == "container":
            stream = ContainerStream(recogniser, self._decoder, max_audio_s=self._limits.max_audio_s)
        else:
            stream = SampleStream(recogniser, options.sample_rate, max_audio_s=self._limits.max_audio_s)
        return _Place(principal.tenant_id, hears, stream)

    async def _open_choice(self, models: Sequence[SpeechModel], options: RecogniserOptions) -> ChoosingRecogniser:
        choice = ChoosingRecogniser(self._pool, models, options)
        try:
            await choice.open()
        except BaseException:
            choice.close()
            raise
        return choice

    async def _work(self, stream_id: str, place: "_Place", audio: bytes | None) -> LiveResult:
        """Feed a stream, or finish it where `audio` is None. A caller that leaves or an error ends it: its state is not known."""
        place.cancel_timer()
        is_over = True
        try:
            async with place.turn:
                if self._streams.get(stream_id) is not place:
                    raise _gone(stream_id)
                result = await (place.stream.feed(audio) if audio is not None else place.stream.finish())
                # Closed meanwhile, it may have opened the chosen recogniser all the same.
                is_over = audio is None or self._streams.get(stream_id) is not place
        finally:
            if is_over:
                await self._drop(stream_id, place)
        if self._streams.get(stream_id) is place:
            self._await_next(stream_id)
        heard_by = place.model
        return result if heard_by is None else replace(result, model_id=heard_by.info.model_id, language=heard_by.language)

    async def _drop(self, stream_id: str, place: "_Place") -> None:
        place.cancel_timer()
        if self._streams.get(stream_id) is place:
            del self._streams[stream_id]
            self._changed(len(self._streams))
            self._heard(AUTO_MODEL if place.model is None else place.model.info.model_id, place.stream.heard_s)
        await place.stream.close()

    def _await_next(self, stream_id: str) -> None:
        place = self._streams[stream_id]
        place.cancel_timer()
        loop = asyncio.get_running_loop()
        place.timer = loop.call_later(self._limits.idle_s, self._expire, stream_id)

    def _expire(self, stream_id: str) -> None:
        place = self._streams.get(stream_id)
        if place is not None and not place.turn.locked():
            place.ending = asyncio.create_task(self._drop(stream_id, place))

    def _find(self, principal: Principal, stream_id: str) -> "_Place":
        place = self._streams.get(stream_id)
        if place is None or place.tenant_id != principal.tenant_id:
            raise _gone(stream_id)
        return place


class _Place:
    """A stream, whose it is, and what hears it."""

    def __init__(self, tenant_id: str, hears: SpeechModel | ChoosingRecogniser, stream: OpenStream) -> None:
        self.tenant_id = tenant_id
        self._hears = hears
        self.stream = stream
        self.turn = asyncio.Lock()
        self.timer: asyncio.TimerHandle | None = None
        self.ending: asyncio.Task[None] | None = None

    @property
    def model(self) -> SpeechModel | None:
        """What hears it; None while that is not decided."""
        return self._hears if isinstance(self._hears, SpeechModel) else self._hears.model

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def _gone(stream_id: str) -> NotFoundError:
    return NotFoundError(
        f"There is no live stream {stream_id[:100]!r}. It has ended, got no audio for too long, or the speech service was "
        "restarted. Open a new one.",
        code="stream_not_found",
    )


def _check(model: SpeechModel, options: LiveOptions, *, is_one_of_several: bool) -> None:
    rate = options.sample_rate
    if options.encoding == "pcm_s16le" and not LOWEST_SAMPLE_RATE <= rate <= HIGHEST_SAMPLE_RATE:
        raise InvalidRequestError(
            f"sample_rate is {rate}; live audio has {LOWEST_SAMPLE_RATE} to {HIGHEST_SAMPLE_RATE} Hz.", param="sample_rate"
        )
    if options.encoding == "pcm_s16le" and rate < model.lowest_sample_rate:
        raise InvalidRequestError(
            f"The model {model.info.model_id} hears {model.lowest_sample_rate} Hz or more, and the audio has {rate}. "
            f"Send it with more samples{', or name another model or a language' if is_one_of_several else ''}.",
            param="sample_rate",
        )
    if not 0 <= options.max_alternatives <= MOST_ALTERNATIVES:
        raise InvalidRequestError(
            f"max_alternatives is {options.max_alternatives}; it goes from 0 to {MOST_ALTERNATIVES}.", param="max_alternatives"
        )
