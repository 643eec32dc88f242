"""The official `openai` client against files and vector stores on a real socket."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
from fastapi import FastAPI
from openai.types import VectorStore
from openai.types.vector_stores import VectorStoreFile

from aihub.core.postgres import Database
from aihub.documents.parsing.parser import DocumentParser
from tests.unit.documents.ingest_parts import SteeredEmbedder
from tests.unit.documents.routes.document_hub import LABOUR, RENT, Clients, DocumentHub, document_hub


@pytest.fixture
def embedder() -> SteeredEmbedder:
    return SteeredEmbedder()


@pytest.fixture
async def hub(
    app: FastAPI, database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> AsyncIterator[DocumentHub]:
    async with document_hub(app, database, tenant, parser, embedder) as running:
        yield running


@pytest.fixture
async def store(clients: Clients) -> VectorStore:
    return await clients.asynchronous.vector_stores.create(name="Luật", metadata={"nhóm": "pháp chế"})


async def attached(
    clients: Clients, store: VectorStore, name: str, text: str, **attributes: str | float | bool
) -> VectorStoreFile:
    return await clients.asynchronous.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=(name, text.encode()), attributes=attributes
    )


async def test_store_is_described_changed_listed_and_deleted(clients: Clients) -> None:
    stores = clients.asynchronous.vector_stores
    store = await stores.create(
        name="Luật",
        description="Văn bản luật",
        metadata={"nhóm": "pháp chế"},
        expires_after={"anchor": "last_active_at", "days": 7},
    )
    assert (store.object, store.status, store.name, store.metadata) == ("vector_store", "completed", "Luật", {"nhóm": "pháp chế"})
    assert store.expires_at == store.created_at + 7 * 86_400
    changed = await stores.update(store.id, name="Luật mới", expires_after=None, metadata=None)
    assert (changed.name, changed.expires_after, changed.metadata) == ("Luật mới", None, {})
    assert await stores.retrieve(store.id) == changed
    second = await stores.create()
    assert [item.id async for item in stores.list(limit=1, order="asc")] == [store.id, second.id]
    deleted = await stores.delete(store.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (store.id, True, "vector_store.deleted")
    with pytest.raises(openai.NotFoundError):
        await stores.retrieve(store.id)


async def test_uploaded_file_is_attached_polled_read_and_counted(clients: Clients, store: VectorStore) -> None:
    client = clients.asynchronous
    file = await client.files.create(file=("lao động.txt", LABOUR.encode()), purpose="assistants")
    assert (await client.files.wait_for_processing(file.id)).status == "processed"
    linked = await client.vector_stores.files.create_and_poll(
        file.id,
        vector_store_id=store.id,
        attributes={"năm": 2019, "loại": "lao động"},
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}},
    )
    assert (linked.object, linked.status, linked.last_error) == ("vector_store.file", "completed", None)
    assert linked.attributes == {"năm": 2019, "loại": "lao động"}
    assert linked.chunking_strategy is not None
    assert linked.chunking_strategy.model_dump() == {
        "type": "static",
        "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20},
    }
    content = await client.vector_stores.files.content(file.id, vector_store_id=store.id)
    assert [item.text for item in content.data] == [LABOUR]
    counted = await client.vector_stores.retrieve(store.id)
    assert (counted.file_counts.completed, counted.file_counts.total) == (1, 1)
    assert counted.usage_bytes == linked.usage_bytes > 0


async def test_search_finds_by_words_and_by_attributes(clients: Clients, store: VectorStore) -> None:
    labour = await attached(clients, store, "lao động.txt", LABOUR, năm=2019)
    rent = await attached(clients, store, "thuê nhà.md", RENT, năm=2023)
    stores = clients.asynchronous.vector_stores
    # The test's embedder knows a text only by its exact words, so ask by words.
    page = await stores.search(store.id, query="tiền đặt cọc thuê nhà", max_num_results=2, extra_body={"mode": "text"})
    assert (page.data[0].file_id, page.data[0].filename) == (rent.id, "thuê nhà.md")
    assert page.data[0].content[0].text == RENT
    assert page.data[0].score >= page.data[-1].score
    recent = {"type": "and", "filters": [{"type": "gte", "key": "năm", "value": 2020}]}
    assert {hit.file_id for hit in (await stores.search(store.id, query="tiền", filters=recent)).data} == {rent.id}
    updated = await stores.files.update(labour.id, vector_store_id=store.id, attributes={"năm": 2024})
    assert updated.attributes == {"năm": 2024}
    latest = {"type": "eq", "key": "năm", "value": 2024}
    assert {hit.file_id for hit in (await stores.search(store.id, query="tiền", filters=latest)).data} == {labour.id}


async def test_files_are_listed_detached_and_deleted(clients: Clients, store: VectorStore) -> None:
    labour = await attached(clients, store, "lao động.txt", LABOUR)
    rent = await attached(clients, store, "thuê nhà.md", RENT)
    client = clients.asynchronous
    assert [item.id async for item in client.vector_stores.files.list(store.id, limit=1)] == [rent.id, labour.id]
    assert [item.id async for item in client.vector_stores.files.list(store.id, filter="failed")] == []
    detached = await client.vector_stores.files.delete(rent.id, vector_store_id=store.id)
    assert (detached.id, detached.deleted, detached.object) == (rent.id, True, "vector_store.file.deleted")
    assert {hit.file_id for hit in (await client.vector_stores.search(store.id, query="tiền")).data} == {labour.id}
    assert (await client.files.retrieve(rent.id)).filename == "thuê nhà.md"
    await client.files.delete(labour.id)
    assert (await client.vector_stores.search(store.id, query="tiền")).data == []
    assert [item.id async for item in client.files.list()] == [rent.id]


async def test_blocking_client_polls_and_reads_the_reason_of_a_failure(clients: Clients) -> None:
    client = clients.sync

    def walk() -> tuple[str, str]:
        store = client.vector_stores.create(name="Kho")
        file = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("a.exe", b"\x00\x01\x02" * 100))
        assert file.last_error is not None
        return file.status, file.last_error.code

    assert await asyncio.to_thread(walk) == ("failed", "unsupported_file")
