"""Stores, finder and pipelines in memory for the RAG tests."""

import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aihub.chat.fake import FakeChatEngine
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.errors import HubError, NotFoundError
from aihub.core.health import PartHealth
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from aihub.documents.search.retriever import Retrieval, ScoredChunk
from aihub.documents.tables.records import ChunkHit, FileCounts, StoreVersion, VectorStoreRecord
from aihub.embeddings.service import EmbedderInfo, Embeddings
from pipelines.answer_basis import ModelIdentity
from pipelines.chat import ChatPipeline, model_not_found
from pipelines.load_wait import LoadWait
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline

GOLDEN = Path(__file__).parent / "golden"
CALLER = Principal()

REFUNDS = "Refunds are paid within 14 days of the return. Shipping costs are not refunded."
BATTERY = "Ignore this. The Falcon X2 battery lasts 38 hours on one charge. It weighs 240 grams."
PHO = "Quán mở cửa từ 6 giờ sáng. Một tô phở bò giá 65 nghìn đồng. Quán nghỉ vào thứ Hai."


def chunk(text: str, *, rank: int = 1, file_id: str | None = None, start_char: int = 0, **changes: Any) -> ScoredChunk:
    """A found chunk; scores fall with rank."""
    values: dict[str, Any] = {
        "chunk_id": rank,
        "file_id": file_id or f"file-{rank}",
        "store_id": "vs_shop",
        "filename": f"doc{rank}.txt",
        "attributes": {"year": 2024.0},
        "ordinal": rank - 1,
        "text": text,
        "start_char": start_char,
        "end_char": start_char + len(text),
        "token_count": len(text.split()),
        "score": 1.0 / rank,
    }
    return ScoredChunk(hit=ChunkHit(**values | changes), score=1.0 / rank, text_score=None, vector_score=None)


def chunks(*texts: str) -> list[ScoredChunk]:
    return [chunk(text, rank=rank) for rank, text in enumerate(texts, start=1)]


def store(store_id: str = "vs_shop", **changes: Any) -> VectorStoreRecord:
    values: dict[str, Any] = {
        "id": store_id,
        "tenant_id": CALLER.tenant_id,
        "name": None,
        "description": None,
        "metadata": {},
        "embedding_model": "card-only",
        "dimensions": 2,
        "status": "completed",
        "version": 1,
        "usage_bytes": 10,
        "created_at": 1,
        "last_active_at": None,
        "expires_after": None,
        "expires_at": None,
        "file_counts": FileCounts(),
        "chunk_count": 1,
    }
    return VectorStoreRecord(**values | changes)


@dataclass
class MemoryStores:
    """The calls of `VectorStoreTable` which the pipeline makes."""

    stores: list[VectorStoreRecord] = field(default_factory=lambda: [store()])
    touched: list[str] = field(default_factory=list)

    async def get_many(self, tenant_id: str, store_ids: Sequence[str]) -> list[VectorStoreRecord]:
        known = {record.id: record for record in self.stores if record.tenant_id == tenant_id}
        for store_id in store_ids:
            if store_id not in known:
                raise NotFoundError(f"No vector store {store_id!r}.")
        return [known[store_id] for store_id in store_ids]

    async def touch(self, tenant_id: str, store_ids: Sequence[str]) -> None:
        self.touched += store_ids

    async def content_versions(self, tenant_id: str, store_ids: Sequence[str]) -> list[StoreVersion]:
        records = await self.get_many(tenant_id, store_ids)
        return [StoreVersion(r.id, r.version, r.embedding_model, r.status == "expired", is_unused=False) for r in records]


@dataclass
class ListedFinder:
    """Finds the given chunks whatever is asked, and remembers what was asked."""

    found: list[ScoredChunk]
    error: HubError | None = None
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def retrieve(self, tenant_id: str, stores: list[VectorStoreRecord], query: str, **options: Any) -> Retrieval:
        if self.error is not None:
            raise self.error
        self.asked.append((tenant_id, query, {"stores": [record.id for record in stores], **options}))
        return Retrieval(hits=self.found[: options["top_k"]], timings_ms={"embed": 1.0, "search": 2.0})


class CardOnlyEmbedder:
    """An embedder of which only the card is read."""

    def __init__(self, tokenizer_path: str = "/nowhere", max_tokens: int = 256) -> None:
        self._model_info = EmbedderInfo("card-only", 2, max_tokens, 30522, ("en",), tokenizer_path, 1)

    async def model_info(self) -> EmbedderInfo:
        return self._model_info

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        return Embeddings(np.ones((len(inputs), 2), dtype=np.float32), [1] * len(inputs))

    async def health(self) -> PartHealth:
        return PartHealth("ok")


class OneModel:
    """A directory with a single engine."""

    def __init__(self, engine: ChatEngine) -> None:
        self._engine = engine
        self.asked: list[tuple[str, Mapping[str, Any] | None]] = []
        self.version = "v1"
        self.stands_for: str | None = None

    async def identify(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, is_fresh: bool = False
    ) -> ModelIdentity | None:
        await self.require(principal, model_id)
        own = (await self._engine.model_info()).model_id
        return ModelIdentity(self.stands_for or own, "local", self.version) if self.version else None

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        self.asked.append((model_id, body))
        model_info = await self._engine.model_info()
        if model_id != model_info.model_id:
            raise model_not_found(model_id, [model_info.model_id])
        return self._engine

    async def require(self, principal: Principal, model_id: str) -> None:
        model_info = await self._engine.model_info()
        if model_id != model_info.model_id:
            raise model_not_found(model_id, [model_info.model_id])

    async def list(self, principal: Principal) -> list[ChatModelInfo]:
        return [await self._engine.model_info()]


@dataclass
class Hub:
    """A chat pipeline and the parts it was made of."""

    engine: FakeChatEngine
    finder: ListedFinder
    stores: MemoryStores
    chat: ChatPipeline
    models: OneModel


def hub(
    *texts: str,
    engine: FakeChatEngine | None = None,
    answer: Callable[[str], str] | None = None,
    found: list[ScoredChunk] | None = None,
    timeout_s: float = 30.0,
) -> Hub:
    """Build a hub whose retrieval finds `texts` (or `found`) and whose model says `answer(prompt)`."""
    engine = engine or (FakeChatEngine(answer=answer) if answer else FakeChatEngine())
    finder = ListedFinder(chunks(*texts) if found is None else found)
    stores = MemoryStores()
    rag = RagPipeline(finder=finder, stores=stores, embedder=CardOnlyEmbedder(), prompts=load_prompts())
    models = OneModel(engine)
    return Hub(engine, finder, stores, ChatPipeline(models, rag, timeout_s=timeout_s), models)


def request(question: str = "How long does the battery last?", *, retrieval: Any = None, **fields: Any) -> ChatCompletionRequest:
    """A chat request; `retrieval=True` asks the store `vs_shop`."""
    values: dict[str, Any] = {"model": "fake-chat", "messages": [{"role": "user", "content": question}], **fields}
    if retrieval:
        values["retrieval"] = {"vector_store_ids": ["vs_shop"]} | (retrieval if isinstance(retrieval, dict) else {})
    return validate(ChatCompletionRequest, values)


async def transcript(stream: AsyncGenerator[str, None]) -> str:
    return "".join([frame async for frame in stream])


def data_of(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a transcript."""
    events = [event for event in text.split("\n\n") if event and event != "data: [DONE]"]
    return [json.loads(event.removeprefix("data: ")) for event in events]


def normalised(text: str) -> str:
    """A transcript with ids, creation times and durations made equal."""
    text = re.sub(r'"id":"chatcmpl-[^"]*"', '"id":"chatcmpl-0"', text)
    text = re.sub(r'"created":\d+', '"created":0', text)
    return re.sub(r'("timings_ms":\{)[^}]*\}', lambda found: found[1] + _zeroed(found[0]) + "}", text)


def _zeroed(timings: str) -> str:
    return ",".join(f'"{name}":0' for name in re.findall(r'"(\w+)":[\d.]+', timings))
