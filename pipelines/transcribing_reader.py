"""Text of recordings and images, for vector stores: what is said in them, or what a vision model sees in them."""

import asyncio
import logging
from contextlib import aclosing

from aihub.chat.service import ChatEngine, ChatModelInfo, hold
from aihub.core.errors import EngineTimeoutError, InvalidRequestError, UnavailableError
from aihub.core.limits import IMAGE_PIXELS
from aihub.core.principal import Principal
from aihub.documents.parsing.clean import DocumentError, DocumentErrorCode, clean, tidy
from aihub.documents.service import MediaText, TimeSpan
from aihub.media.service import MediaDecoder, MediaFacts, PreparedImage
from aihub.speech.service import RecognitionOptions, Segment, SpeechService, TranscriptionEnd, TranscriptionProgress
from pipelines.chat import EngineDirectory
from pipelines.media_readers import data_url
from pipelines.prompts import Prompts

logger = logging.getLogger(__name__)

MAX_CAPTION_TOKENS = 2048
"""A page of print; the prompt asks for all text in the image, word for word."""
CAPTIONS_PER_CONTEXT = 4
"""A short context gives a caption this part, as it gives the image as much."""
CUT_MARK = " […]"
"""Ends a caption for which there was no room."""
CAPTION_TIMEOUT_S = 600.0
"""Of one caption, the load of its model included."""

_RECOGNISER_DIED = "recogniser_died"
_ATTEMPTS = 2
_PARAGRAPH = "\n\n"


class TranscribingReader:
    """Implements `aihub.documents.service.MediaReader`: recordings and videos by what is said, images by a caption.

    Args:
        decoder: Tells what a file is, and prepares images.
        speech: Transcribes.
        engines: Models of this cluster: files that are stored here are sent nowhere else.
        prompts: Their `caption` asks for a caption.
        caption_language: ISO 639-1 code; English where there is no prompt for it.
    """

    def __init__(
        self, *, decoder: MediaDecoder, speech: SpeechService, engines: EngineDirectory, prompts: Prompts, caption_language: str
    ) -> None:
        self._decoder = decoder
        self._speech = speech
        self._engines = engines
        self._caption_prompt = prompts.for_language(caption_language).caption

    async def read(self, principal: Principal, data: bytes) -> MediaText:
        """Return the words of a recording, each with its time, or the caption of an image."""
        try:
            facts = await self._decoder.probe(data)
            if facts.kind == "image":
                return MediaText(await self._caption(principal, data), "image")
            return await self._transcribe(principal, data, facts)
        except DocumentError:
            raise
        except InvalidRequestError as error:
            raise _refused(error) from error

    async def _transcribe(self, principal: Principal, data: bytes, facts: MediaFacts) -> MediaText:
        if not facts.has_audio:
            raise DocumentError("The video has no sound; videos are found by what is said in them.", code="unsupported_file")
        if not await self._speech.models():
            raise DocumentError(
                f"No speech model is installed, so the {facts.kind} file cannot be transcribed. Install one, such as "
                "`aihub models download vosk:vi` or `aihub models download vosk:en`, and attach the file again.",
                code="unsupported_file",
            )
        transcript = await self._hear(principal, data)
        if not transcript.text:
            raise DocumentError(f"Nothing that is said was heard in the {facts.kind} file.", code="empty_file")
        return MediaText(transcript.text, "video" if facts.kind == "video" else "audio", tuple(transcript.spans))

    async def _hear(self, principal: Principal, data: bytes) -> "TranscriptText":
        for attempt in range(_ATTEMPTS):
            transcript = TranscriptText()
            try:
                await self._listen(principal, data, transcript)
                return transcript
            except UnavailableError as error:
                if error.code != _RECOGNISER_DIED:
                    raise
                logger.warning("Recogniser %d of %d ended at a recording: %s", attempt + 1, _ATTEMPTS, error.message)
        raise DocumentError("The recording ends its recogniser; save it again with another program, or split it.")

    async def _listen(self, principal: Principal, data: bytes, transcript: "TranscriptText") -> None:
        async with aclosing(self._speech.stream_transcription(principal, data, RecognitionOptions())) as events:
            async for event in events:
                if isinstance(event, TranscriptionProgress) and event.segment is not None:
                    transcript.add(event.segment)
                elif isinstance(event, TranscriptionEnd):
                    return
        raise UnavailableError("The speech service stopped before the end of the recording.")

    async def _caption(self, principal: Principal, data: bytes) -> str:
        try:
            async with asyncio.timeout(CAPTION_TIMEOUT_S) as limit:
                model_info, engine = await self._vision_engine(principal)
                with hold(engine):  # from here on: the model must not be unloaded while the image is prepared for it
                    image = await self._decoder.prepare_image(data, max_pixels=IMAGE_PIXELS)
                    answer = await engine.chat(self._question(image, model_info))
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise EngineTimeoutError(f"The vision model did not answer within {CAPTION_TIMEOUT_S:.0f} s.") from error
        [choice] = answer["choices"]
        caption = tidy(_cleaned(choice["message"].get("content") or ""))
        if not caption:
            raise DocumentError("The vision model said nothing about the image.", code="empty_file")
        if choice["finish_reason"] != "length":
            return caption
        logger.warning("A caption of %s was cut after %d characters.", model_info.model_id, len(caption))
        return caption + CUT_MARK

    def _question(self, image: PreparedImage, model_info: ChatModelInfo) -> dict[str, object]:
        content = [{"type": "image_url", "image_url": {"url": data_url(image)}}, {"type": "text", "text": self._caption_prompt}]
        return {
            "messages": [{"role": "user", "content": content}],
            "max_completion_tokens": min(MAX_CAPTION_TOKENS, model_info.context_tokens // CAPTIONS_PER_CONTEXT),
            "temperature": 0.0,
        }

    async def _vision_engine(self, principal: Principal) -> tuple[ChatModelInfo, ChatEngine]:
        """Return a model that sees, one that is loaded before one that its first request loads."""
        model_infos = await self._engines.list(principal)
        if not model_infos:
            raise UnavailableError("The chat models do not answer now.")
        seeing = next((model_info for model_info in model_infos if model_info.max_images), None)
        if seeing is None:
            raise DocumentError(
                "No vision model is installed, so there is no caption to find the image by. Install one that fits this machine "
                "(`aihub models recommended` lists them), and attach the file again.",
                code="unsupported_file",
            )
        return seeing, await self._engines.resolve(principal, seeing.model_id)


class TranscriptText:
    """Segments put together as paragraphs, and the place of every word.

    Attributes:
        spans: One per word; one per segment where the words are not known.
    """

    def __init__(self) -> None:
        self.spans: list[TimeSpan] = []
        self._pieces: list[str] = []
        self._length = 0

    @property
    def text(self) -> str:
        """All segments added so far, as `clean` leaves text."""
        return "".join(self._pieces)

    def add(self, segment: Segment) -> None:
        """Add what was said between two pauses as a paragraph of its own."""
        separator = _PARAGRAPH
        for piece in segment.words or (segment,):
            # Cleaned before it is counted, so that nothing moves it later.
            text = " ".join(_cleaned(piece.text).split())
            if not text:
                continue
            if self._pieces:
                self._append(separator)
            start_char = self._length
            self._append(text)
            self.spans.append(TimeSpan(start_char, self._length, piece.start_s, piece.end_s))
            separator = " "

    def _append(self, text: str) -> None:
        self._pieces.append(text)
        self._length += len(text)


_DOCUMENT_CODES: dict[str, DocumentErrorCode] = {
    "unsupported_media": "unsupported_file",
    "empty_media": "empty_file",
    "media_too_long": "too_large",
    "media_too_large": "too_large",
    "image_too_large": "too_large",
    "media_timeout": "parse_timeout",
    "media_memory": "parse_memory",
}


def _cleaned(text: str) -> str:
    """Return what `clean` leaves as it is also when blanks at its ends are cut off, and no byte order mark stood behind them."""
    return clean(text.replace("\ufeff", ""))


def _refused(error: InvalidRequestError) -> DocumentError:
    """Turn what is wrong with a recording or an image into what is wrong with a document."""
    return DocumentError(error.message, code=_DOCUMENT_CODES.get(error.code, "invalid_file"))
