"""What reads one content part: the decoder for images and frames, the speech service for sound, the parser for documents."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Literal, Protocol

from aihub.chat.parts import (
    AnyPart,
    AudioPart,
    Detail,
    FilePart,
    ImagePart,
    MediaPart,
    ReadyImage,
    ReadyPart,
    ReadyText,
    VideoPart,
)
from aihub.core.limits import (
    IMAGE_PIXELS,
    LOW_DETAIL_PIXELS,
    MAX_IMAGE_BYTES,
    MAX_MEDIA_BYTES,
    MAX_RECORDING_S,
    MAX_VIDEO_FRAMES,
)
from aihub.core.principal import Principal
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.formats.media import begins_as_media
from aihub.media.service import MediaDecoder, MediaError, MediaFacts, PreparedImage
from aihub.speech.service import RecognitionOptions, SpeechService, Transcript
from pipelines.media_cache import TextCache
from pipelines.media_sources import ByteBudget, MediaFile, SourceReader, TextBudget, blaming
from pipelines.media_words import document_text, frame_text, recording_text, sound_text, video_text, words_for

PartKind = Literal["image", "audio", "video", "document"]

_UNNAMED = "file.txt"
_JUDGED_CHARS = 2_000
_HELD = {"image": "an image", "audio": "a recording", "video": "a video without sound"}
_KINDS: dict[type, PartKind] = {ImagePart: "image", AudioPart: "audio", VideoPart: "video"}
_PART_TYPES = {"image": "image_url", "audio": "input_audio", "video": "video_url"}
_QUICK_CHARS = 16 * 2**10
"""Longer texts are put between their words in a thread: their markers are looked for letter by letter."""


class TextParser(Protocol):
    """`aihub.documents.parsing.parser.DocumentParser`."""

    async def extract_text(self, filename: str, data: bytes, *, max_characters: int) -> str:
        """Return the text of a file; `DocumentError` where there is none, or more (`too_large`)."""
        ...


@dataclass(slots=True, eq=False)
class PartTask:
    """One part on its way from what was sent to what an engine takes.

    Attributes:
        message: Index of its message.
        position: Index in the message.
        said: What the user has typed; the words around what is read are in its language, or without it in that of what is read.
        has_sources: Whether retrieval puts numbered sources into the prompt.
        kind: Of what it holds; None for a file that was not looked into.
        max_frames: Of a video.
        file: While it is being read.
        size_bytes: Of the file, once it was read; reading it again counts no more against the budget.
        texts: Read from sound or document; None before that.
        images: Read from an image, or a video's frames with their times; None before that.
    """

    part: MediaPart
    message: int
    position: int
    said: str
    has_sources: bool
    budget: ByteBudget
    text_budget: TextBudget
    kind: PartKind | None = None
    max_frames: int = MAX_VIDEO_FRAMES
    file: MediaFile | None = None
    size_bytes: int | None = None
    texts: list[ReadyText] | None = None
    images: list[ReadyPart] | None = None

    def __post_init__(self) -> None:
        self.kind = next((kind for part_type, kind in _KINDS.items() if isinstance(self.part, part_type)), None)

    @property
    def param(self) -> str:
        return f"messages.{self.message}.content.{self.position}.{self.part.source_field}"

    @property
    def detail(self) -> Detail:
        if self.kind == "video":
            return "low"
        return self.part.image_url.detail if isinstance(self.part, ImagePart) else "auto"

    @property
    def shows(self) -> bool:
        """Whether a model must see to take it."""
        return self.kind in {"image", "video"}

    @property
    def tells(self) -> bool:
        """Whether text comes of it."""
        return self.kind != "image"

    def ready(self) -> list[AnyPart]:
        """What stands in its place by now; images that are not decoded yet stand there without data."""
        images: list[ReadyPart] = []
        if self.shows:
            pending = [ReadyImage("", self.detail)] * (self.max_frames if self.kind == "video" else 1)
            images = list(pending) if self.images is None else self.images
        return [*images, *(self.texts or ())]


class MediaReaders:
    """Reads parts, one at a time each.

    Args:
        parser: Makes text of documents.
        known: Texts that were read before; its own one when None.
    """

    def __init__(
        self,
        *,
        sources: SourceReader,
        decoder: MediaDecoder,
        speech: SpeechService,
        parser: TextParser,
        known: TextCache | None = None,
    ) -> None:
        self.sources = sources
        self._decoder = decoder
        self._speech = speech
        self._parser = parser
        self._known = known or TextCache()

    async def classify(self, principal: Principal, task: PartTask) -> None:
        """Find out what a file holds, by its first bytes and its header; raises as `MediaParts.prepare`."""
        file = await self._file(principal, task)
        task.kind = (await self._probe(task, file)).kind if begins_as_media(file.data) else "document"
        if task.kind == "image" and len(file.data) > MAX_IMAGE_BYTES:
            raise MediaError(
                f"The image holds {len(file.data)} bytes; at most {MAX_IMAGE_BYTES} are allowed.",
                param=task.param,
                code="media_too_large",
            )

    async def read_text(self, principal: Principal, task: PartTask) -> None:
        """Read what is said in a recording or video, or stands in a document; raises as `MediaParts.prepare`."""
        file = await self._file(principal, task)
        if task.kind == "document":
            task.texts = [await self._read_document(principal, task, file)]
            return
        facts = await self._probe(task, file)
        self._require_kind(task, facts)
        if task.kind == "video" and not facts.has_audio:
            task.texts = []
            return
        models = tuple((model.model_id, model.created) for model in await self._speech.models())
        if task.kind == "video" and not models:
            task.texts = [ReadyText(words_for(task.said).no_recogniser)]
            return
        key = await self._known.key(principal.tenant_id, file.data, "sound", models)
        transcript = self._known.get(key)
        if not isinstance(transcript, Transcript):
            with blaming(task.param):
                heard = await self._speech.transcribe(principal, file.data, RecognitionOptions())
            # The times of words are of no use here, and most of what a transcript takes.
            transcript = replace(heard, segments=tuple(replace(segment, words=()) for segment in heard.segments))
            self._known.put(key, transcript)
        task.texts = [await self._transcribed(task, file, transcript)]

    async def read_images(self, principal: Principal, task: PartTask) -> None:
        """Decode an image, or the frames of a video; raises as `MediaParts.prepare`."""
        file = await self._file(principal, task)
        pixels = LOW_DETAIL_PIXELS if task.detail == "low" else IMAGE_PIXELS
        with blaming(task.param):
            if task.kind == "image":
                image = await self._decoder.prepare_image(file.data, max_pixels=pixels)
                task.images = [ReadyImage(data_url(image), task.detail)]
                return
            video = await self._decoder.sample_video(
                file.data, max_frames=task.max_frames, max_pixels=pixels, max_duration_s=MAX_RECORDING_S
            )
        words = words_for(task.said)
        images: list[ReadyPart] = [ReadyText(video_text(words, file.name, video.duration_s))]
        for frame in video.frames:
            images += [ReadyText(frame_text(words, frame.time_s)), ReadyImage(data_url(frame.image), task.detail)]
        task.images = images

    async def _file(self, principal: Principal, task: PartTask) -> MediaFile:
        if task.file is None:
            limit = MAX_IMAGE_BYTES if task.kind == "image" else MAX_MEDIA_BYTES
            budget = task.budget if task.size_bytes is None else ByteBudget(task.size_bytes)
            file = await self.sources.read(principal, task.part, task.param, max_bytes=limit, budget=budget)
            task.size_bytes = len(file.data)
            task.file = MediaFile(file.data, _given_name(task.part) or file.name)
        return task.file

    async def _probe(self, task: PartTask, file: MediaFile) -> MediaFacts:
        with blaming(task.param):
            facts = await self._decoder.probe(file.data)
            if facts.duration_s is not None and facts.duration_s > MAX_RECORDING_S:
                raise MediaError(
                    f"The {facts.kind} lasts {facts.duration_s:.0f} s; at most {MAX_RECORDING_S:.0f} s are read in a chat. "
                    "Send a part of it, or put it into a vector store.",
                    code="media_too_long",
                )
            return facts

    @staticmethod
    def _require_kind(task: PartTask, facts: MediaFacts) -> None:
        """Refuse a part that holds something else than its type says."""
        has_sound = facts.kind == "audio" or facts.has_audio
        if facts.kind == "video" if task.kind == "video" else has_sound:
            return
        raise MediaError(
            f"This is {_HELD[facts.kind]}, no {'recording' if task.kind == 'audio' else task.kind}; send it as a part of type "
            f"{_PART_TYPES[facts.kind]!r}.",
            param=task.param,
        )

    @staticmethod
    async def _transcribed(task: PartTask, file: MediaFile, transcript: Transcript) -> ReadyText:
        heard = transcript.text
        with blaming(task.param):
            task.text_budget.take(len(heard))
        words = words_for(task.said or heard)
        if task.kind == "video":
            # What is said in a video is what the question is about, and not the question.
            return ReadyText(await _rendered(len(heard), partial(sound_text, words, transcript)))
        text = await _rendered(len(heard), partial(recording_text, words, transcript, file.name))
        return ReadyText(text, question=_lines(transcript))

    async def _read_document(self, principal: Principal, task: PartTask, file: MediaFile) -> ReadyText:
        name = file.name or _UNNAMED
        # The parser tells formats apart by the name too.
        key = await self._known.key(principal.tenant_id, file.data, "document", PurePath(name).suffix.lower())
        with blaming(task.param):
            async with task.text_budget.turn:
                text = self._known.get(key)
                if not isinstance(text, str):
                    text = await self._extract_text(task.text_budget, name, file.data)
                    self._known.put(key, text)
                task.text_budget.take(len(text))
        words = words_for(task.said or text[:_JUDGED_CHARS])
        return ReadyText(await _rendered(len(text), partial(document_text, words, file.name, text, has_sources=task.has_sources)))

    async def _extract_text(self, budget: TextBudget, name: str, data: bytes) -> str:
        budget.require_some()
        try:
            return await self._parser.extract_text(name, data, max_characters=budget.left)
        except DocumentError as error:
            if error.code == "too_large":
                budget.take(budget.left + 1)
            raise


async def _rendered(chars: int, render: Callable[[], str]) -> str:
    return render() if chars <= _QUICK_CHARS else await asyncio.to_thread(render)


def data_url(image: PreparedImage) -> str:
    """Return an image as engines take it."""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def _given_name(part: MediaPart) -> str | None:
    return part.file.filename if isinstance(part, FilePart) else None


def _lines(transcript: Transcript) -> str:
    return "\n".join(segment.text for segment in transcript.segments if segment.text)
