"""A spoken question while its audio arrives: what was heard so far, as events, and at the end as a whole."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

from aihub.core.concurrency import cancel, complete
from aihub.core.errors import HubError, InvalidRequestError, PayloadTooLargeError, RequestTimeoutError
from aihub.core.principal import Principal
from aihub.speech.service import LiveOptions, LiveResult, LiveStream, RecognitionOptions, SpeechService

MAX_QUESTION_S = 300.0
"""Longest question, in seconds of audio."""

MAX_LISTEN_S = 600.0
"""Longest time that the audio may take to arrive and be heard."""

_UNKNOWN = "[unk]"
"""What Vosk writes for words outside the phrases it was told to listen for."""


@dataclass(frozen=True, slots=True)
class HeardQuestion:
    """All that was said.

    Attributes:
        segments: What was said between two pauses, with `text`, `start` and `end` in seconds, and `words`.
    """

    model_id: str
    language: str
    segments: tuple[dict[str, Any], ...]

    @property
    def text(self) -> str:
        """The segments as one line."""
        return " ".join(segment["text"] for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """Return the object that clients get."""
        return {"text": self.text, "model": self.model_id, "language": self.language, "segments": list(self.segments)}


@dataclass(slots=True)
class _Mailbox:
    """Events for a client that may take them later: every final, of the partials only the last."""

    finals: deque[dict[str, Any]] = field(default_factory=deque)
    partial: dict[str, Any] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> dict[str, Any] | None:
        if self.finals:
            return self.finals.popleft()
        event, self.partial = self.partial, None
        return event


class Listener:
    """Hears one question, in a task of its own that `start` begins and `close` ends.

    The audio is read whether or not anybody takes the events, so that a client may send everything before it reads.

    Args:
        audio: Pieces of a file, as they arrive.
        on_text: Called after each piece with all that was heard so far, and whether that will not change any more.
    """

    def __init__(
        self,
        speech: SpeechService,
        principal: Principal,
        recognition: RecognitionOptions,
        audio: AsyncGenerator[bytes, None],
        on_text: Callable[[str, bool], None],
    ) -> None:
        self._speech = speech
        self._principal = principal
        self._options = LiveOptions(recognition=recognition, encoding="container")
        self._audio = audio
        self._on_text = on_text
        self._segments: list[dict[str, Any]] = []
        self._partial = ""
        self._model_id, self._language = "", ""
        self._mailbox = _Mailbox()
        self._task: asyncio.Task[HeardQuestion] | None = None

    def start(self) -> None:
        """Begin to hear."""
        self._task = asyncio.create_task(self._listen())
        self._task.add_done_callback(lambda _: self._mailbox.changed.set())

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield `transcript.partial` and `transcript.final` events until the audio ends."""
        assert self._task is not None  # noqa: S101  # start() has set it
        while True:
            self._mailbox.changed.clear()
            while (event := self._mailbox.take()) is not None:
                yield event
            if self._task.done():
                break
            await self._mailbox.changed.wait()

    async def question(self) -> HeardQuestion:
        """Wait for the end of the audio and return what was said.

        Raises:
            HubError: As `aihub.speech.service.VoiceService` says of what is heard.
        """
        assert self._task is not None  # noqa: S101  # start() has set it
        return await asyncio.shield(self._task)

    async def close(self) -> None:
        """Stop hearing."""
        if self._task is not None:
            await cancel(self._task)

    async def _listen(self) -> HeardQuestion:
        try:
            async with asyncio.timeout(MAX_LISTEN_S) as limit:
                question = await self._hear_all()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise RequestTimeoutError(
                f"The question took longer than {MAX_LISTEN_S:g} s to arrive. Ask a shorter one."
            ) from error
        if not question.segments:
            raise InvalidRequestError(
                "No speech was heard. Check the microphone and the language, and speak close to it.",
                param="file",
                code="no_speech",
            )
        return question

    async def _hear_all(self) -> HeardQuestion:
        stream = await self._open()
        self._note_model(stream)
        is_open = True
        try:
            async with aclosing(self._audio):
                async for piece in self._audio:
                    self._take(await self._speech.feed(self._principal, stream.stream_id, piece))
                    self._tell()
            self._take(await self._speech.finish(self._principal, stream.stream_id))
            is_open = False
        finally:
            if is_open:
                await self._give_up(stream)
        return HeardQuestion(self._model_id, self._language, tuple(self._segments))

    async def _open(self) -> LiveStream:
        try:
            return await self._speech.open_stream(self._principal, self._options)
        except InvalidRequestError as error:
            if error.param == "model":  # beside it stands a chat model, which bears that name
                error.param = "speech_model"
            raise

    async def _give_up(self, stream: LiveStream) -> None:
        # A recogniser that cannot be reached ends by itself a stream that is no longer fed.
        with suppress(HubError):
            # Whole, whoever leaves meanwhile: half a close would leave the place taken until the stream is idle for too long.
            await complete(self._speech.close(self._principal, stream.stream_id))

    def _note_model(self, told: LiveStream | LiveResult) -> None:
        if told.model_id is not None:
            self._model_id, self._language = told.model_id, told.language or ""

    def _take(self, result: LiveResult) -> None:
        self._note_model(result)
        if not result.finals and result.partial is None:
            return  # the piece held nothing that can be heard by itself
        for final in result.finals:
            segment = _segment(final)
            if segment["text"]:
                _refuse_length(segment)
                self._segments.append(segment)
                self._mailbox.finals.append({"type": "transcript.final", **segment})
                self._mailbox.partial = None
        partial = "" if result.partial is None else _known_words(result.partial.get("partial") or "")
        if partial and partial != self._partial:
            self._mailbox.partial = {"type": "transcript.partial", "text": partial}
        self._partial = partial
        self._mailbox.changed.set()

    def _tell(self) -> None:
        texts = [segment["text"] for segment in self._segments]
        self._on_text(" ".join([*texts, self._partial] if self._partial else texts), not self._partial)


def _segment(final: Mapping[str, Any]) -> dict[str, Any]:
    """Make a segment of one of Vosk's results."""
    words = [
        {"word": word["word"], "start": word["start"], "end": word["end"], "confidence": word["conf"]}
        for word in final.get("result") or ()
    ]
    times = {"start": words[0]["start"], "end": words[-1]["end"]} if words else {"start": None, "end": None}
    return {"text": _known_words(final.get("text") or ""), **times, "words": words}


def _known_words(text: str) -> str:
    return " ".join(word for word in text.split() if word != _UNKNOWN)


def _refuse_length(segment: Mapping[str, Any]) -> None:
    if (segment["end"] or 0.0) > MAX_QUESTION_S:
        raise PayloadTooLargeError(
            f"The question is longer than {MAX_QUESTION_S:g} s. Ask a shorter one, or transcribe the recording and ask by text.",
            param="file",
            code="audio_too_long",
        )
