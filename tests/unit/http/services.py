"""Services for tests of the edge: real wire types and streams, a fake engine behind them."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from aihub.accounts.fake import FakeAccounts, FakeAuthenticator
from aihub.chat.completions import CompletionRequest
from aihub.chat.fake import FakeChatEngine
from aihub.chat.schemas import ChatCompletionRequest
from aihub.conversations.conversations import Conversations
from aihub.conversations.fake import new_memory_conversations
from aihub.core.errors import HubError, NotFoundError
from aihub.core.health import PartHealth
from aihub.core.metrics import Metrics
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord
from aihub.core.settings import Settings
from aihub.documents.service import FileBatchService, FileService, VectorStoreService
from aihub.embeddings.service import EmbedderInfo, Embeddings
from aihub.finetuning.service import AdapterService, FineTuningService
from aihub.http.services import NoUsage, Services
from aihub.models.service import LifecycleService, RegistryService
from aihub.recsys.service import RecsysService
from aihub.speech.fake import FakeSpeech
from aihub.speech.service import VoiceService
from aihub.usage.service import AnalyticsService, SystemService


class OneEngineChat:
    """The plain part of a chat service: one engine, no retrieval."""

    def __init__(self, engine: FakeChatEngine) -> None:
        self.engine = engine

    async def chat(self, principal: Principal, request: ChatCompletionRequest) -> dict[str, Any]:
        await self._find(request.model)
        return await self.engine.chat(request.to_engine_body())

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        await self._find(request.model)
        return await _begin(self.engine.stream_chat(request.to_engine_body()))

    async def complete(self, principal: Principal, request: CompletionRequest) -> dict[str, Any]:
        await self._find(request.model)
        return await self.engine.complete(request.to_engine_body())

    async def open_complete_stream(self, principal: Principal, request: CompletionRequest) -> AsyncGenerator[str, None]:
        await self._find(request.model)
        return await _begin(self.engine.stream_complete(request.to_engine_body()))

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        model_info = await self.engine.model_info()
        return [{"id": model_info.model_id, "object": "model", "created": model_info.created, "owned_by": model_info.owned_by}]

    async def _find(self, model: str) -> None:
        if model != (await self.engine.model_info()).model_id:
            raise NotFoundError(f"The model {model!r} does not exist.", param="model", code="model_not_found")


async def _begin(stream: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """Wait for the first frame, so that errors come before any byte."""
    first = await anext(stream)

    async def frames() -> AsyncGenerator[str, None]:
        try:
            yield first
            async for frame in stream:
                yield frame
        finally:
            await stream.aclose()

    return frames()


class TinyEmbedder:
    """Unit vectors by text length; enough for the edge."""

    error: HubError | None = None

    async def model_info(self) -> EmbedderInfo:
        if self.error is not None:
            raise self.error
        return EmbedderInfo("fake-embedder", 4, 256, 1000, ("en",), "", 1_700_000_000)

    async def embed(self, inputs: Any) -> Embeddings:
        vectors = np.zeros((len(inputs), 4), dtype=np.float32)
        vectors[np.arange(len(inputs)), [len(item) % 4 for item in inputs]] = 1.0
        return Embeddings(vectors, [max(len(item), 1) for item in inputs])

    async def health(self) -> PartHealth:
        return PartHealth("ok")


class Usage(NoUsage):
    """Keeps the records of requests."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    def record(self, record: RequestRecord) -> None:
        self.records.append(record)


@dataclass
class Parts:
    """Knobs of one test application."""

    engine: FakeChatEngine = field(default_factory=FakeChatEngine)
    embedder: TinyEmbedder = field(default_factory=TinyEmbedder)
    speech: FakeSpeech = field(default_factory=FakeSpeech)
    metrics: Metrics = field(default_factory=Metrics)
    settings: Settings = field(default_factory=Settings)
    authenticator: FakeAuthenticator = field(default_factory=FakeAuthenticator)
    usage: Usage = field(default_factory=Usage)
    conversations: Conversations = field(default_factory=new_memory_conversations)
    analytics: AnalyticsService = cast(AnalyticsService, None)  # Its own tests bring one.
    health: dict[str, PartHealth] = field(
        default_factory=lambda: {name: PartHealth("ok") for name in ("llm", "embeddings", "postgres", "redis")}
    )

    def services(self) -> Services:
        async def health() -> dict[str, PartHealth]:
            return self.health

        return Services(
            settings=self.settings,
            authenticator=self.authenticator,
            usage=self.usage,
            chat=OneEngineChat(self.engine),
            embedder=self.embedder,
            files=cast(FileService, None),  # The files' own tests bring one.
            vector_stores=cast(VectorStoreService, None),
            file_batches=cast(FileBatchService, None),
            registry=cast(RegistryService, None),
            lifecycle=cast(LifecycleService, None),
            recsys=cast(RecsysService, None),
            adapters=cast(AdapterService, None),
            finetuning=cast(FineTuningService, None),
            speech=self.speech,
            voice=cast(VoiceService, None),
            accounts=FakeAccounts(),
            conversations=self.conversations,
            analytics=self.analytics,
            system=cast(SystemService, None),
            health=health,
            metrics=self.metrics,
        )
