"""Live streams: each holds a recogniser from its begin to its end, and is closed when nothing comes for a while."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from aihub.core.errors import InvalidRequestError, NotFoundError, OverloadedError
from aihub.core.principal import Principal
from aihub.media.service import MediaDecoder
from aihub.speech.live_stream import ContainerStream, OpenStream, SampleStream
from aihub.speech.models import SpeechModel
from aihub.speech.recognition.options import RecogniserOptions
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.service import LiveOptions, LiveResult, LiveStream

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
        heard: Told model and seconds of a stream that ended.
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

    async def open(self, principal: Principal, model: SpeechModel, options: LiveOptions) -> LiveStream:
        """Begin a stream.

        Raises:
            InvalidRequestError: An option is out of its range, or the model does not do it.
            OverloadedError: All places are taken.
        """
        _check(model, options)
        if len(self._streams) + self._opening >= self._limits.max_streams:
            raise OverloadedError(
                f"All {self._limits.max_streams} places for live streams are taken. Retry in some seconds.", retry_after_s=5
            )
        self._opening += 1
        try:
            stream = await self._open(model, options)
        finally:
            self._opening -= 1
        stream_id = f"stream-{secrets.token_hex(12)}"
        self._streams[stream_id] = _Place(principal.tenant_id, model.info.model_id, stream)
        self._await_next(stream_id)
        self._changed(len(self._streams))
        return LiveStream(stream_id, model.info.model_id, model.language)

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

    async def _open(self, model: SpeechModel, options: LiveOptions) -> OpenStream:
        kind = ContainerStream if options.encoding == "container" else SampleStream
        recogniser = await self._pool.open(
            model.folder,
            RecogniserOptions(
                sample_rate=kind.sample_rate_of(options),
                phrases=options.recognition.phrases,
                words=options.words,
                partials=True,
                partial_words=options.partial_words,
                max_alternatives=options.max_alternatives,
            ),
        )
        if options.encoding == "container":
            return ContainerStream(recogniser, self._decoder, max_audio_s=self._limits.max_audio_s)
        return SampleStream(recogniser, options.sample_rate, max_audio_s=self._limits.max_audio_s)

    async def _work(self, stream_id: str, place: "_Place", audio: bytes | None) -> LiveResult:
        """Feed a stream, or finish it where `audio` is None. A caller that leaves or an error ends it: its state is not known."""
        place.cancel_timer()
        is_over = True
        try:
            async with place.turn:
                if self._streams.get(stream_id) is not place:
                    raise _gone(stream_id)
                result = await (place.stream.feed(audio) if audio is not None else place.stream.finish())
                is_over = audio is None
        finally:
            if is_over:
                await self._drop(stream_id, place)
        if self._streams.get(stream_id) is place:
            self._await_next(stream_id)
        return result

    async def _drop(self, stream_id: str, place: "_Place") -> None:
        place.cancel_timer()
        if self._streams.get(stream_id) is place:
            del self._streams[stream_id]
            self._changed(len(self._streams))
            self._heard(place.model_id, place.stream.heard_s)
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
    """A stream and whose it is."""

    def __init__(self, tenant_id: str, model_id: str, stream: OpenStream) -> None:
        self.tenant_id = tenant_id
        self.model_id = model_id
        self.stream = stream
        self.turn = asyncio.Lock()
        self.timer: asyncio.TimerHandle | None = None
        self.ending: asyncio.Task[None] | None = None

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


def _check(model: SpeechModel, options: LiveOptions) -> None:
    rate = options.sample_rate
    if options.encoding == "pcm_s16le" and not LOWEST_SAMPLE_RATE <= rate <= HIGHEST_SAMPLE_RATE:
        raise InvalidRequestError(
            f"sample_rate is {rate}; live audio has {LOWEST_SAMPLE_RATE} to {HIGHEST_SAMPLE_RATE} Hz.", param="sample_rate"
        )
    if options.encoding == "pcm_s16le" and rate < model.lowest_sample_rate:
        raise InvalidRequestError(
            f"The model {model.info.model_id} hears {model.lowest_sample_rate} Hz or more, and the audio has {rate}. "
            "Send it with more samples.",
            param="sample_rate",
        )
    if not 0 <= options.max_alternatives <= MOST_ALTERNATIVES:
        raise InvalidRequestError(
            f"max_alternatives is {options.max_alternatives}; it goes from 0 to {MOST_ALTERNATIVES}.", param="max_alternatives"
        )
