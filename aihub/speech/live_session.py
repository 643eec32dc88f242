"""vosk-server's protocol over a live stream: what each message of a client brings.

A client sends `{"config": {...}}` before its audio, then binary frames, each of which is answered with one JSON object, and
`{"eof": 1}` at the end, which is answered with the last final. `{"reset": 1}` ends an utterance and goes on.
"""

import logging
from dataclasses import replace
from typing import Any

from aihub.core.concurrency import complete
from aihub.core.errors import HubError, InvalidRequestError, NotFoundError, PayloadTooLargeError, UnavailableError
from aihub.core.principal import Principal
from aihub.core.request_record import get_record
from aihub.core.schemas import validate
from aihub.http.strict_json import parse_strict_json
from aihub.speech.schemas import LiveConfig
from aihub.speech.service import AUTO_MODEL, LiveOptions, LiveResult, LiveStream, SpeechService
from aihub.speech.vosk_results import Result, has_words, join_finals, move_later

logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 2**20
"""32 s of bare samples at 16 kHz; clients send a fraction of a second."""
MAX_TEXT_BYTES = 256 * 2**10
MAX_CONFIGS = 16
"""Configs are not answered, so a client that only sends them could fill queues."""

_SAMPLE_BYTES = 2


class UnknownMessageError(InvalidRequestError):
    """A text message is none of the protocol's."""

    code = "unknown_message"


class LiveSession:
    """One connection. Its place among the live streams is taken by the first audio and given back by `aclose`."""

    def __init__(self, speech: SpeechService, principal: Principal) -> None:
        self._speech = speech
        self._principal = principal
        self._config = LiveConfig()
        self._configs = 0
        self._stream: LiveStream | None = None
        self._heard_model: str | None = None
        self._stream_bytes = 0
        self._earlier_s = 0.0
        self.is_finished = False

    async def hear(self, frame: bytes) -> Result:
        """Take a piece of audio and return the final it ended, or the partial."""
        if len(frame) > MAX_FRAME_BYTES:
            raise PayloadTooLargeError(f"A frame holds at most {MAX_FRAME_BYTES} bytes; send a fraction of a second at a time.")
        stream = await self._open()
        self._stream_bytes += len(frame)
        try:
            result = await self._speech.feed(self._principal, stream.stream_id, frame)
        except NotFoundError as error:
            raise _lost(error) from error
        return self._shown(result)

    async def obey(self, text: str) -> Result | None:
        """Take a text message; a config has no answer.

        Raises:
            UnknownMessageError: It is none of the protocol's.
            InvalidRequestError: The config is wrong, or came too late.
        """
        if len(text.encode()) > MAX_TEXT_BYTES:
            raise PayloadTooLargeError(f"A text message holds at most {MAX_TEXT_BYTES} bytes.")
        try:
            message = parse_strict_json(text.encode())
        except InvalidRequestError as error:
            raise UnknownMessageError(f"A text message must be JSON. {error.message}", code=error.code) from error
        name, value = next(iter(message.items())) if isinstance(message, dict) and len(message) == 1 else ("", None)
        if name == "config":
            self._configure(value)
            return None
        if name == "eof" and value:
            self.is_finished = True
            return await self._finish()
        if name == "reset" and value:
            if self._config.encoding == "container":
                raise InvalidRequestError("A file cannot go on after a reset. Connect again.", code="reset_in_container")
            return await self._finish()
        raise UnknownMessageError('Send {"config": {...}} before the audio, binary frames of audio, and {"eof": 1} at the end.')

    async def aclose(self) -> None:
        """Give the place back."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            await complete(self._speech.close(self._principal, stream.stream_id))
        except HubError as error:
            logger.info("A live stream was not closed: %s It ends by itself.", error.message)

    def _configure(self, value: Any) -> None:
        if self._stream is not None:
            raise InvalidRequestError("Send the config before the audio, or after a reset.", code="config_after_audio")
        self._configs += 1
        if self._configs > MAX_CONFIGS:
            raise InvalidRequestError(f"At most {MAX_CONFIGS} configs are read. Send audio.", code="too_many_configs")
        if not isinstance(value, dict):
            raise InvalidRequestError("'config' must be an object.", param="config")
        self._config = validate(LiveConfig, self._config.model_dump(exclude_unset=True) | value)
        self._heard_model = None

    async def _open(self) -> LiveStream:
        if self._stream is None:
            self._stream = await self._speech.open_stream(self._principal, self._options())
            get_record().note_model(self._stream.model_id or AUTO_MODEL)
        return self._stream

    def _options(self) -> LiveOptions:
        """Return the config's options; after a reset, `auto` is the model that has heard words before it."""
        options = self._config.options()
        if self._heard_model is None or options.recognition.model != AUTO_MODEL:
            return options
        return replace(options, recognition=replace(options.recognition, model=self._heard_model))

    async def _finish(self) -> Result:
        stream = await self._open()
        self._stream = None
        try:
            result = await self._speech.finish(self._principal, stream.stream_id)
        except NotFoundError as error:
            raise _lost(error) from error
        shown = self._shown(result)
        self._earlier_s += self._stream_bytes / (_SAMPLE_BYTES * self._config.sample_rate)
        self._stream_bytes = 0
        return shown

    def _shown(self, result: LiveResult) -> Result:
        if any(map(has_words, result.finals)):
            self._heard_model = result.model_id
            get_record().note_model(result.model_id or AUTO_MODEL)
        shown = join_finals(result.finals) if result.finals else (result.partial or {"partial": ""})
        return move_later(shown, self._earlier_s) if self._earlier_s else shown


def _lost(error: NotFoundError) -> UnavailableError:
    return UnavailableError(f"{error.message} Connect again and send the audio from the last final on.", code="stream_lost")
