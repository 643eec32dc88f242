"""A kept answer never outlives the documents it was made of: real tables, a real search, a model that repeats its prompt."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from aihub.cache.fake import FakeAnswerStore
from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import NotFoundError
from aihub.core.metrics import Metrics
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.documents.search.bm25 import LexicalIndexCache
from aihub.documents.search.retriever import Retriever
from aihub.documents.tables.chunks import ChunkTable
from aihub.embeddings.service import EmbedderInfo, Embeddings
from pipelines.cached_chat import CachedChat
from pipelines.chat import ChatPipeline
from pipelines.prompts import load_prompts
from pipelines.rag import RagPipeline
from tests.storage_parts import DIMENSIONS, Documents
from tests.unit.documents.ingest_parts import minilm_tokenizer
from tests.unit.pipelines.rag_parts import CardOnlyEmbedder, OneModel, request


class OneDirection(CardOnlyEmbedder):
    """Everything means the same, so that every chunk is found."""

    def __init__(self, tokenizer_path: str) -> None:
        super().__init__(tokenizer_path)
        self._model_info = EmbedderInfo("test-model", DIMENSIONS, 256, 30522, ("vi",), tokenizer_path, 1)

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        vectors = np.full((len(inputs), DIMENSIONS), DIMENSIONS**-0.5, dtype=np.float32)
        return Embeddings(vectors, [1] * len(inputs))


@pytest.fixture
def documents(database: Database, tenant: str) -> Documents:
    return Documents(database, tenant)


@pytest.fixture
def engine() -> FakeChatEngine:
    return FakeChatEngine(answer=lambda prompt: prompt, context_tokens=100_000)


@pytest.fixture
def chat(database: Database, documents: Documents, engine: FakeChatEngine) -> CachedChat:
    chunks = ChunkTable(database)
    embedder = OneDirection(minilm_tokenizer())
    finder = Retriever(chunks, LexicalIndexCache(chunks), embedder)
    rag = RagPipeline(finder=finder, stores=documents.stores, embedder=embedder, prompts=load_prompts())
    pipeline = ChatPipeline(OneModel(engine), rag, timeout_s=30.0)
    return CachedChat(pipeline, pipeline, FakeAnswerStore(), ttl_s=60.0, metrics=Metrics())


async def ask(chat: CachedChat, documents: Documents, *store_ids: str, **options: Any) -> str:
    retrieval = {"vector_store_ids": list(store_ids), "mode": "vector", "score_threshold": 0.0, "top_k": 20} | options
    asked = request("Giá bao nhiêu?", retrieval=retrieval, temperature=0.0)
    answer = await chat.chat(Principal(tenant_id=documents.tenant), asked)
    return str(answer["choices"][0]["message"]["content"])


def one_direction(count: int) -> Any:
    return np.full((count, DIMENSIONS), DIMENSIONS**-0.5, dtype=np.float32)


async def add(documents: Documents, store_id: str, text: str, **attributes: Any) -> str:
    record = await documents.indexed(store_id, [text], one_direction(1), attributes)
    return record.file_id


async def test_every_change_of_a_document_is_seen_by_the_next_question(
    chat: CachedChat, documents: Documents, engine: FakeChatEngine
) -> None:
    store = await documents.store()
    price = await add(documents, store.id, "Phở giá 50 nghìn đồng.")
    first = await ask(chat, documents, store.id)
    assert "50 nghìn" in first
    assert await ask(chat, documents, store.id) == first
    assert len(engine.bodies) == 1
    # Edited: another file takes its place.
    await documents.links.detach(documents.tenant, store.id, price)
    assert "50 nghìn" not in await ask(chat, documents, store.id)
    price = await add(documents, store.id, "Phở giá 65 nghìn đồng.")
    assert "65 nghìn" in await ask(chat, documents, store.id)
    # Attached beside it.
    other = await add(documents, store.id, "Bún giá 40 nghìn đồng.", year=2023)
    assert "40 nghìn" in await ask(chat, documents, store.id)
    # Other attributes, by which it is filtered.
    recent = {"type": "gte", "key": "year", "value": 2024}
    assert "40 nghìn" not in await ask(chat, documents, store.id, filters=recent)
    await documents.links.update_attributes(documents.tenant, store.id, other, {"year": 2025})
    assert "40 nghìn" in await ask(chat, documents, store.id, filters=recent)
    # Deleted for good.
    await documents.files.delete(documents.tenant, other)
    assert "40 nghìn" not in await ask(chat, documents, store.id)
    await documents.stores.delete(documents.tenant, store.id)
    with pytest.raises(NotFoundError):
        await ask(chat, documents, store.id)


async def test_a_change_of_one_of_two_stores_counts_and_one_of_a_third_does_not(
    chat: CachedChat, documents: Documents, engine: FakeChatEngine
) -> None:
    stores = [await documents.store() for _ in range(3)]
    for number, store in enumerate(stores):
        await add(documents, store.id, f"Kho {number} có 10 cái.")
    asked = [store.id for store in stores[:2]]
    await ask(chat, documents, *asked)
    await add(documents, stores[2].id, "Kho 2 có 99 cái.")
    await ask(chat, documents, *asked)
    assert len(engine.bodies) == 1
    await add(documents, stores[1].id, "Kho 1 có 77 cái.")
    assert "77 cái" in await ask(chat, documents, *asked)


async def test_a_document_that_comes_while_an_answer_is_made_is_in_the_next_answer(
    chat: CachedChat, documents: Documents, engine: FakeChatEngine
) -> None:
    store = await documents.store()
    await add(documents, store.id, "Phở giá 50 nghìn đồng.")
    engine._first_token_s = 0.3  # slow from now on
    asking = asyncio.create_task(ask(chat, documents, store.id))
    await asyncio.sleep(0.1)
    assert engine.active
    await add(documents, store.id, "Bún giá 40 nghìn đồng.")
    assert "40 nghìn" not in await asking
    assert "40 nghìn" in await ask(chat, documents, store.id)


async def test_two_dozen_changes_beside_questions_leave_no_stale_answer(chat: CachedChat, documents: Documents) -> None:
    store = await documents.store()
    current = await add(documents, store.id, "Giá là 0 đồng.")
    written = 0
    is_over = False

    async def write() -> None:
        nonlocal current, written, is_over
        for number in range(1, 25):
            await documents.links.detach(documents.tenant, store.id, current)
            current = await add(documents, store.id, f"Giá là {number} đồng.")
            written = number
        is_over = True

    async def read() -> int:
        questions = 0
        while not is_over:
            known = written
            text = await ask(chat, documents, store.id)
            questions += 1
            stale = [number for number in range(known) if f"Giá là {number} đồng." in text]
            assert stale == []
        return questions

    results = await asyncio.gather(write(), read(), read())
    assert min(results[1:]) > 24
    assert "Giá là 24 đồng." in await ask(chat, documents, store.id)


async def test_an_answer_from_the_cache_counts_as_use_of_the_store(
    chat: CachedChat, documents: Documents, database: Database
) -> None:
    store = await documents.store()
    await add(documents, store.id, "Phở giá 50 nghìn đồng.")
    await ask(chat, documents, store.id)
    async with database.connection() as connection:
        await connection.execute("UPDATE vector_stores SET last_active_at = now() - interval '1 hour' WHERE id = %s", (store.id,))
    await ask(chat, documents, store.id)
    async with database.connection() as connection:
        query = "SELECT now() - last_active_at < interval '1 minute' FROM vector_stores WHERE id = %s"
        row = await (await connection.execute(query, (store.id,))).fetchone()
    assert row == (True,)
