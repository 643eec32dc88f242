"""File batches by the official `openai` client on a real socket, and what it never sends."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from openai.types import VectorStore

from aihub.core.postgres import Database
from aihub.documents.parsing.parser import DocumentParser
from tests.unit.conftest import assert_refused
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
    return await clients.asynchronous.vector_stores.create(name="Luật")


async def test_a_batch_is_created_polled_listed_and_searched(hub: DocumentHub, clients: Clients, store: VectorStore) -> None:
    file_ids = [await hub.uploaded(LABOUR), await hub.uploaded(RENT, "thuê.txt")]
    stores = clients.asynchronous.vector_stores
    chunking: Any = {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 20}}
    batch = await stores.file_batches.create_and_poll(
        store.id, file_ids=[*file_ids, file_ids[0]], attributes={"năm": 2024}, chunking_strategy=chunking, poll_interval_ms=50
    )
    assert batch.object == "vector_store.files_batch"
    assert (batch.status, batch.vector_store_id) == ("completed", store.id)
    assert batch.file_counts.to_dict() == {"in_progress": 0, "completed": 2, "failed": 0, "cancelled": 0, "total": 2}
    assert await stores.file_batches.retrieve(batch.id, vector_store_id=store.id) == batch
    await stores.file_batches.create_and_poll(store.id, file_ids=[await hub.uploaded("Khác.")], poll_interval_ms=50)
    listed = [file async for file in stores.file_batches.list_files(batch.id, vector_store_id=store.id, limit=1, order="asc")]
    assert [file.id for file in listed] == file_ids
    assert all(file.attributes == {"năm": 2024} for file in listed)
    assert all(file.chunking_strategy.to_dict() == chunking for file in listed if file.chunking_strategy)
    found = await stores.search(store.id, query="nghỉ phép", filters={"type": "eq", "key": "năm", "value": 2024})
    assert found.data[0].file_id == file_ids[0]


async def test_files_of_a_batch_have_their_own_attributes_and_chunks(
    hub: DocumentHub, clients: Clients, store: VectorStore
) -> None:
    first, second = await hub.uploaded(LABOUR), await hub.uploaded(RENT)
    sizes: Any = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}
    batches = clients.asynchronous.vector_stores.file_batches
    batch = await batches.create_and_poll(
        store.id,
        files=[{"file_id": first, "attributes": {"loại": "luật"}, "chunking_strategy": sizes}, {"file_id": second}],
        poll_interval_ms=50,
    )
    files = {file.id: file async for file in batches.list_files(batch.id, vector_store_id=store.id)}
    assert files[first].attributes == {"loại": "luật"}
    assert files[first].chunking_strategy.to_dict() == sizes
    assert files[second].attributes == {}


async def test_files_are_uploaded_and_polled_by_the_blocking_client(clients: Clients, store: VectorStore) -> None:
    files = [(f"văn bản {number}.txt", f"{LABOUR} Số {number}.".encode()) for number in range(4)]
    batch = await asyncio.to_thread(
        clients.sync.vector_stores.file_batches.upload_and_poll, store.id, files=files, poll_interval_ms=50
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 4)


async def test_a_cancelled_batch_stops_what_is_not_indexed_yet(
    hub: DocumentHub, clients: Clients, store: VectorStore, embedder: SteeredEmbedder
) -> None:
    batches = clients.asynchronous.vector_stores.file_batches
    done = await hub.indexed(store.id, LABOUR)
    embedder.gate = asyncio.Event()  # nothing is embedded from here on
    waiting = [await hub.uploaded(f"{RENT} {number}") for number in range(3)]
    batch = await batches.create(store.id, file_ids=[done, *waiting])
    assert (batch.status, batch.file_counts.in_progress) == ("in_progress", 3)
    cancelled = await batches.cancel(batch.id, vector_store_id=store.id)
    assert cancelled.status == "cancelled"
    assert cancelled.file_counts.to_dict() == {"in_progress": 0, "completed": 1, "failed": 0, "cancelled": 3, "total": 4}
    embedder.gate.set()
    await asyncio.sleep(0.3)
    assert await batches.retrieve(batch.id, vector_store_id=store.id) == cancelled
    assert [file.id async for file in batches.list_files(batch.id, vector_store_id=store.id, filter="completed")] == [done]
    assert await batches.cancel(batch.id, vector_store_id=store.id) == cancelled


async def test_a_batch_that_has_ended_cannot_be_cancelled_any_more(
    hub: DocumentHub, clients: Clients, store: VectorStore
) -> None:
    batches = clients.asynchronous.vector_stores.file_batches
    batch = await batches.create_and_poll(store.id, file_ids=[await hub.uploaded()], poll_interval_ms=50)
    assert (await batches.cancel(batch.id, vector_store_id=store.id)).status == "completed"


async def test_files_that_cannot_be_read_are_counted_as_failed(hub: DocumentHub, clients: Clients, store: VectorStore) -> None:
    batches = clients.asynchronous.vector_stores.file_batches
    broken, good = await hub.uploaded("not a PDF", "hỏng.pdf"), await hub.uploaded()
    mixed = await batches.create_and_poll(store.id, file_ids=[broken, good], poll_interval_ms=50)
    assert (mixed.status, mixed.file_counts.failed, mixed.file_counts.completed) == ("completed", 1, 1)
    alone = await batches.create_and_poll(store.id, file_ids=[broken], poll_interval_ms=50)  # it is tried anew
    assert (alone.status, alone.file_counts.failed) == ("failed", 1)


async def test_an_unknown_file_attaches_nothing(hub: DocumentHub, clients: Clients, store: VectorStore) -> None:
    with pytest.raises(openai.NotFoundError, match="file-none"):
        await clients.asynchronous.vector_stores.file_batches.create(store.id, file_ids=[await hub.uploaded(), "file-none"])
    assert (await clients.asynchronous.vector_stores.retrieve(store.id)).file_counts.total == 0


async def test_batches_at_the_same_time_share_files_without_deadlock(
    hub: DocumentHub, clients: Clients, store: VectorStore
) -> None:
    file_ids = [await hub.uploaded(f"{LABOUR} {number}") for number in range(6)]
    batches = clients.asynchronous.vector_stores.file_batches
    made = await asyncio.gather(
        *(batches.create_and_poll(store.id, file_ids=ids, poll_interval_ms=50) for ids in (file_ids, file_ids[::-1]) * 3)
    )
    assert {(batch.status, batch.file_counts.completed) for batch in made} == {("completed", 6)}


async def test_a_detached_file_leaves_its_batches_and_a_deleted_store_takes_them_along(
    hub: DocumentHub, clients: Clients, store: VectorStore
) -> None:
    first, second = await hub.uploaded(LABOUR), await hub.uploaded(RENT)
    stores = clients.asynchronous.vector_stores
    batch = await stores.file_batches.create_and_poll(store.id, file_ids=[first, second], poll_interval_ms=50)
    await stores.files.delete(first, vector_store_id=store.id)
    assert (await stores.file_batches.retrieve(batch.id, vector_store_id=store.id)).file_counts.total == 1
    await stores.delete(store.id)
    with pytest.raises(openai.NotFoundError):
        await stores.file_batches.retrieve(batch.id, vector_store_id=store.id)


async def test_batches_of_other_stores_and_tenants_are_not_found(
    hub: DocumentHub, clients: Clients, store: VectorStore, tenant: str
) -> None:
    batches = clients.asynchronous.vector_stores.file_batches
    batch = await batches.create(store.id, file_ids=[await hub.uploaded()])
    other = await clients.asynchronous.vector_stores.create(name="other")
    for calls in (batches.retrieve, batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await calls(batch.id, vector_store_id=other.id)
    hub.act_for("somebody-else")
    with pytest.raises(openai.NotFoundError):
        await batches.retrieve(batch.id, vector_store_id=store.id)
    with pytest.raises(openai.NotFoundError):
        await batches.list_files(batch.id, vector_store_id=store.id)
    hub.act_for(tenant)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"file_ids": None, "files": None},
        {"file_ids": []},
        {"files": []},
        {"file_ids": ["file-1"], "files": [{"file_id": "file-1"}]},
        {"files": [{"file_id": "file-1"}, {"file_id": "file-1"}]},
        {"file_ids": ["../x"]},
        {"file_ids": "file-1"},
        {"files": [{"attributes": {}}]},
        {"file_ids": [f"file-{number}" for number in range(2001)]},
        {"file_ids": ["file-1"], "attributes": {"a": [1]}},
    ],
)
async def test_a_body_that_names_no_files_or_names_them_twice_is_refused(hub: DocumentHub, body: dict[str, Any]) -> None:
    store_id = (await hub.created())["id"]
    assert_refused(await hub.http.post(f"/v1/vector_stores/{store_id}/file_batches", json=body))


@pytest.mark.parametrize("batch_id", ["vsfb_none", "a'b", "%00", "x" * 80])
async def test_unknown_batches_are_not_found(hub: DocumentHub, batch_id: str) -> None:
    store_id = (await hub.created())["id"]
    for path in ("", "/files"):
        assert_refused(await hub.http.get(f"/v1/vector_stores/{store_id}/file_batches/{batch_id}{path}"), 404)
    assert_refused(await hub.http.post(f"/v1/vector_stores/{store_id}/file_batches/{batch_id}/cancel"), 404)
