"""A decoder without FFmpeg, uploaded files in memory and a parser of plain text, for the tests of content parts."""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import HubError, NotFoundError
from aihub.core.principal import Principal
from aihub.documents.parsing.clean import DocumentError, too_many_characters
from aihub.documents.schemas import FileObject
from aihub.documents.service import FileService
from aihub.media.service import MediaError, MediaFacts, PreparedImage, SampledVideo, VideoFrame
from aihub.speech.fake import FakeSpeech
from pipelines.chat import ChatPipeline, EngineDirectory
from pipelines.media_parts import MediaParts
from pipelines.media_readers import MediaReaders
from pipelines.media_sources import MediaFetcher, SourceReader
from tests.unit.pipelines.rag_parts import OneModel, hub

PNG = b"\x89PNG\r\n\x1a\n one"
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "
MP4 = b"\x00\x00\x00\x18ftypisom"
SILENT_MP4 = MP4 + b" silent"
LONG_WAV = WAV + b" long"
BROKEN_PNG = b"\x89PNG\r\n\x1a\n broken"
FACTS = {
    PNG: MediaFacts("image", "png", width=4, height=3),
    WAV: MediaFacts("audio", "wav", 2.0, has_audio=True),
    LONG_WAV: MediaFacts("audio", "wav", 36_000.0, has_audio=True),
    MP4: MediaFacts("video", "mp4", 8.0, has_audio=True, width=64, height=48),
    SILENT_MP4: MediaFacts("video", "mp4", 8.0, width=64, height=48),
}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def url(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{b64(data)}"


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def image(data: bytes = PNG, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(data), **more}}


def audio(data: bytes = WAV) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": b64(data), "format": "wav"}}


def video(data: bytes = MP4) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url(data, "video/mp4")}}


def file(data: bytes, filename: str = "notes.txt") -> dict[str, Any]:
    return {"type": "file", "file": {"file_data": b64(data), "filename": filename}}


def uploaded(file_id: str, kind: str = "file") -> dict[str, Any]:
    return {"type": kind, kind: {"file_id": file_id}}


@dataclass
class FakeDecoder:
    """Knows the files of `FACTS`; whatever else is damaged.

    Attributes:
        calls: What was asked, by method, with the limits.
        active: Calls that run now.
    """

    delay_s: float = 0.0
    error: HubError | None = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    active: int = 0

    @property
    def decoded(self) -> list[str]:
        """Methods called that decode more than a header."""
        return [name for name, _ in self.calls if name != "probe"]

    async def probe(self, data: bytes) -> MediaFacts:
        return await self._work("probe", data)

    async def prepare_image(self, data: bytes, *, max_pixels: int) -> PreparedImage:
        await self._work("prepare_image", data, max_pixels=max_pixels)
        return PreparedImage(b"prepared " + data[8:], "image/png", 4, 3)

    async def sample_video(self, data: bytes, *, max_frames: int, max_pixels: int, max_duration_s: float) -> SampledVideo:
        facts = await self._work(
            "sample_video", data, max_frames=max_frames, max_pixels=max_pixels, max_duration_s=max_duration_s
        )
        frames = tuple(
            VideoFrame(PreparedImage(b"frame %d" % number, "image/jpeg", 64, 48), 8.0 * number / max(max_frames - 1, 1))
            for number in range(max_frames)
        )
        return SampledVideo(frames, 8.0, facts.has_audio)

    async def decode_audio(self, data: bytes | AsyncIterator[bytes], *, max_duration_s: float) -> AsyncGenerator[bytes, None]:
        raise NotImplementedError("the speech service decodes its audio itself")
        yield b""

    async def _work(self, method: str, data: bytes, **limits: Any) -> MediaFacts:
        self.calls.append((method, limits))
        if self.error is not None:
            raise self.error
        self.active += 1
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.active -= 1
        if data not in FACTS:
            raise MediaError("The file is damaged; save it again with another program.")
        return FACTS[data]


@dataclass
class MemoryFiles:
    """Uploaded files by tenant and id; the calls of `FileService` that reading makes."""

    files: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    claimed_bytes: dict[str, int] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)

    def add(self, file_id: str, filename: str, data: bytes, tenant_id: str = Principal().tenant_id) -> None:
        self.files[tenant_id, file_id] = filename, data

    async def get(self, principal: Principal, file_id: str) -> FileObject:
        found = self.files.get((principal.tenant_id, file_id))
        if found is None:
            raise NotFoundError(f"No file {file_id!r}.")
        size = self.claimed_bytes.get(file_id, len(found[1]))
        return FileObject.model_construct(id=file_id, filename=found[0], bytes=size)

    async def content(self, principal: Principal, file_id: str) -> tuple[FileObject, AsyncIterator[bytes]]:
        async def pieces() -> AsyncGenerator[bytes, None]:
            data = self.files[principal.tenant_id, file_id][1]
            self.read.append(file_id)
            for start in range(0, len(data), 4):
                yield data[start : start + 4]

        return await self.get(principal, file_id), pieces()


@dataclass
class PlainParser:
    """Documents are UTF-8, or none.

    Attributes:
        limits: The `max_characters` of each call.
        most: Calls that ran at a time.
    """

    limits: list[int] = field(default_factory=list)
    active: int = 0
    most: int = 0

    async def extract_text(self, filename: str, data: bytes, *, max_characters: int) -> str:
        self.limits.append(max_characters)
        self.active += 1
        self.most = max(self.most, self.active)
        await asyncio.sleep(0.001)
        self.active -= 1
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DocumentError("The file has no format that is read here.", code="unsupported_file") from error
        if len(text) > max_characters:
            raise too_many_characters(max_characters)
        return text


@dataclass
class MediaHub:
    """A chat pipeline that reads media, and the parts it was made of."""

    engine: FakeChatEngine = field(default_factory=lambda: FakeChatEngine(max_images=10))
    engines: EngineDirectory | None = None
    decoder: FakeDecoder = field(default_factory=FakeDecoder)
    speech: FakeSpeech = field(default_factory=FakeSpeech)
    files: MemoryFiles = field(default_factory=MemoryFiles)
    parser: PlainParser = field(default_factory=PlainParser)
    fetcher: MediaFetcher | None = None
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        self.engines = self.engines or OneModel(self.engine)
        base = hub("The Falcon X2 battery lasts 38 hours.", engine=self.engine)
        sources = SourceReader(cast(FileService, self.files), self.fetcher)
        readers = MediaReaders(sources=sources, decoder=self.decoder, speech=self.speech, parser=self.parser)
        self.finder = base.finder
        self.media = MediaParts(readers, self.engines.list)
        self.chat = ChatPipeline(self.engines, base.chat._rag, timeout_s=self.timeout_s, media=self.media)

    @property
    def content(self) -> Any:
        """Content of the last message that the engine got."""
        return self.engine.bodies[-1]["messages"][-1]["content"]
