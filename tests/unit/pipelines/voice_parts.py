"""A voice pipeline in memory: its speech is text, its finder knows a few sentences and counts who searches."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import HubError
from aihub.core.principal import Principal
from aihub.documents.search.retriever import Retrieval
from aihub.documents.tables.records import VectorStoreRecord
from aihub.speech.fake import FakeSpeech
from aihub.speech.service import LiveOptions, LiveResult, LiveStream, RecognitionOptions, VoiceQuestion
from pipelines.chat import ChatPipeline
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline
from pipelines.voice import VoicePipeline
from tests.unit.pipelines.rag_parts import BATTERY, CALLER, PHO, REFUNDS, CardOnlyEmbedder, MemoryStores, OneModel, chunk, data_of

PAUSE = "\n"
LIBRARY = (REFUNDS, BATTERY, PHO, "The warranty covers the battery for two years.", "The shop opens at eight and closes at nine.")


class WrittenSpeech(FakeSpeech):
    """Hears audio that is text: words are heard at once, a line end is a pause, which ends an utterance.

    Attributes:
        feed_error: Raised by `feed` while set.
    """

    def __init__(self) -> None:
        super().__init__()
        self._texts: dict[str, str] = {}
        self._heard_s: dict[str, float] = {}
        self.feed_error: HubError | None = None
        self.second_per_word = 0.25

    async def open_stream(self, principal: Principal, options: LiveOptions) -> LiveStream:
        stream = await super().open_stream(principal, options)
        self._texts[stream.stream_id], self._heard_s[stream.stream_id] = "", 0.0
        return stream

    async def feed(self, principal: Principal, stream_id: str, audio: bytes) -> LiveResult:
        await asyncio.sleep(0)
        self._stream(stream_id)
        if self.feed_error is not None:
            raise self.feed_error
        *ended, rest = (self._texts[stream_id] + audio.decode()).split(PAUSE)
        self._texts[stream_id] = rest
        finals = tuple(self._result(stream_id, text) for text in ended)
        return LiveResult(finals, None if finals and not rest.strip() else {"partial": " ".join(rest.split())}, "vosk:en", "en")

    async def finish(self, principal: Principal, stream_id: str) -> LiveResult:
        self._stream(stream_id)
        self.streams.pop(stream_id)
        return LiveResult((self._result(stream_id, self._texts.pop(stream_id)),), None, "vosk:en", "en")

    def _result(self, stream_id: str, text: str) -> dict[str, Any]:
        words = []
        for word in text.split():
            start = self._heard_s[stream_id]
            self._heard_s[stream_id] = start + self.second_per_word
            words.append({"word": word, "start": start, "end": start + self.second_per_word, "conf": 1.0})
        return {"text": " ".join(text.split())} | ({"result": words} if words else {})


@dataclass
class WordFinder:
    """Finds the sentences of `LIBRARY` that share words with the query, best first.

    Attributes:
        asked: Queries that were begun, in order.
        cancelled: Those that were given up.
        most: Most searches at a time.
        wait: Awaited by each search.
    """

    wait: Callable[[str], Any] | None = None
    error: HubError | None = None
    asked: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    most: int = 0
    _running: int = 0

    async def retrieve(self, tenant_id: str, stores: list[VectorStoreRecord], query: str, **options: Any) -> Retrieval:
        self.asked.append(query)
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            await (asyncio.sleep(0) if self.wait is None else self.wait(query))
        except asyncio.CancelledError:
            self.cancelled.append(query)
            raise
        finally:
            self._running -= 1
        if self.error is not None:
            raise self.error
        wanted = set(query.casefold().split())
        shared = [(len(wanted & set(text.casefold().split())), text) for text in LIBRARY]
        best = sorted((pair for pair in shared if pair[0]), reverse=True)[: options["top_k"]]
        return Retrieval([chunk(text, rank=rank) for rank, (_, text) in enumerate(best, start=1)], {"embed": 1.0, "search": 2.0})


@dataclass
class VoiceHub:
    """A voice pipeline and its parts."""

    speech: WrittenSpeech = field(default_factory=WrittenSpeech)
    finder: WordFinder = field(default_factory=WordFinder)
    engine: FakeChatEngine = field(default_factory=FakeChatEngine)
    stores: MemoryStores = field(default_factory=MemoryStores)

    def __post_init__(self) -> None:
        self.rag = RagPipeline(finder=self.finder, stores=self.stores, embedder=CardOnlyEmbedder(), prompts=load_prompts())
        self.voice = VoicePipeline(self.speech, ChatPipeline(OneModel(self.engine), self.rag, timeout_s=30.0), self.rag)

    async def ask(self, *pieces: str, **changes: Any) -> dict[str, Any]:
        return await self.voice.ask(CALLER, question(**changes), audio(pieces))

    async def stream(self, *pieces: str, **changes: Any) -> list[dict[str, Any]]:
        frames = await self.voice.open_ask_stream(CALLER, question(**changes), audio(pieces))
        return data_of("".join([frame async for frame in frames]))


def question(*, early: bool = True, retrieval: bool = True, **chat: Any) -> VoiceQuestion:
    """A question to the model `fake-chat` and, with `retrieval`, the store `vs_shop`."""
    asked: dict[str, Any] = {"model": "fake-chat"} | ({"retrieval": {"vector_store_ids": ["vs_shop"]}} if retrieval else {})
    return VoiceQuestion(RecognitionOptions(), asked | chat, early)


async def audio(pieces: Iterable[str]) -> AsyncGenerator[bytes, None]:
    """Speech that comes piece by piece, with time for others in between."""
    for piece in pieces:
        yield piece.encode()
        for _ in range(12):
            await asyncio.sleep(0)


class Microphone:
    """Speech that comes when the test says so.

    Attributes:
        is_closed: Whether nobody listens any more.
    """

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_closed = False

    def say(self, text: str) -> None:
        self._pieces.put_nowait(text.encode())

    def stop(self) -> None:
        self._pieces.put_nowait(None)

    async def audio(self) -> AsyncGenerator[bytes, None]:
        try:
            while (piece := await self._pieces.get()) is not None:
                yield piece
        finally:
            self.is_closed = True


async def until(condition: Callable[[], bool], *, within_s: float = 5.0) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # the condition is no event
            await asyncio.sleep(0.002)
