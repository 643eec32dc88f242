"""One suite for both ways to have stores: the embedded servers, and others reached by DATABASE_URL and REDIS_URL."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from aihub.core.cache import Cache
from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import HubError, NotFoundError, StorageUnavailableError
from aihub.core.postgres import Database
from aihub.documents.tables.chunks import ChunkTable
from tests.external_servers import ExternalPostgres, ExternalRedis
from tests.storage_parts import Documents, chunk_rows, unit_vectors


@pytest.fixture(scope="module")
def external_redis() -> Iterator[ExternalRedis]:
    server = ExternalRedis()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["embedded", "external"])
def urls(request: pytest.FixtureRequest) -> StoreUrls:
    if request.param == "embedded":
        embedded: StoreUrls = request.getfixturevalue("embedded_stores")
        return embedded
    return StoreUrls(request.getfixturevalue("external_postgres").url, request.getfixturevalue("external_redis").url)


@pytest.fixture
async def opened(urls: StoreUrls) -> AsyncIterator[Database]:
    database = Database(urls.database_url, pool_size=4)
    await database.open()
    yield database
    await database.close()


async def remove_all(documents: Documents) -> None:
    for store in (await documents.stores.list(documents.tenant, limit=100))[0]:
        await documents.stores.delete(documents.tenant, store.id)
    for file in (await documents.files.list(documents.tenant, limit=100))[0]:
        await documents.files.delete(documents.tenant, file.id)


@pytest.fixture
async def documents(opened: Database) -> AsyncIterator[Documents]:
    made = Documents(opened, f"tenant-{secrets.token_hex(6)}")
    yield made
    await remove_all(made)


async def test_document_goes_from_upload_to_search_and_away_again(opened: Database, documents: Documents) -> None:
    store = await documents.store()
    vectors = unit_vectors(3)
    record = await documents.indexed(store.id, ["Điều một.", "Điều hai.", "Điều ba."], vectors, {"năm": 2024})
    table = ChunkTable(opened)
    allowed = await table.matching_files(documents.tenant, [store.id], {"type": "gte", "key": "năm", "value": 2024})
    assert allowed == {record.file_id}
    hits = await table.vector_search(documents.tenant, [store.id], vectors[1], 2, allowed)
    assert hits[0].text == "Điều hai."
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
    changes = await table.lexical_changes(documents.tenant, store.id, 0)
    assert await table.fetch(documents.tenant, changes.added[0].chunk_ids[1:2]) != []
    text = await documents.files.text_slice(documents.tenant, record.file_id, hits[0].start_char, hits[0].end_char)
    assert text == hits[0].text
    await documents.files.delete(documents.tenant, record.file_id)
    assert await table.vector_search(documents.tenant, [store.id], vectors[1], 2) == []
    removed = await table.lexical_changes(documents.tenant, store.id, changes.version)
    assert removed.removed_file_ids == [record.file_id]


async def test_health_is_ok_and_the_cache_keeps_values(urls: StoreUrls, opened: Database) -> None:
    assert (await opened.check()).status == "ok"
    cache = Cache(urls.redis_url)
    await cache.set("khoá", b"gi\xc3\xa1", 5)
    assert await cache.get("khoá") == b"gi\xc3\xa1"
    assert (await cache.check()).status == "ok"
    await cache.close()


async def test_crash_in_the_middle_of_a_completion_leaves_nothing_and_a_retry_succeeds(
    external_postgres: ExternalPostgres,
) -> None:
    database = Database(external_postgres.url, pool_size=2)
    await database.open()
    documents = Documents(database, f"tenant-{secrets.token_hex(6)}")
    try:
        store, file = await documents.store(), await documents.file()
        await documents.attach(store.id, file.id)
        record = await documents.claim(lease_s=120)
        rows = chunk_rows([f"câu {n}" for n in range(3000)], unit_vectors(3000))
        completion = asyncio.create_task(documents.links.complete(record, "văn bản", "txt", rows))
        await asyncio.sleep(0.4)
        assert not completion.done()
        external_postgres.crash()
        with pytest.raises(StorageUnavailableError):
            await completion
        external_postgres.start()
        after = await retried(documents, store.id)
        assert (after.version, after.chunk_count, after.file_counts.in_progress) == (0, 0, 1)
        with pytest.raises(NotFoundError):
            await documents.files.get_text(documents.tenant, file.id)
        table = ChunkTable(database)
        assert await table.vector_search(documents.tenant, [store.id], np.asarray(rows[0].embedding), 5) == []
        assert await documents.links.complete(record, "văn bản", "txt", rows[:50])
        assert len(await table.vector_search(documents.tenant, [store.id], np.asarray(rows[0].embedding), 5)) == 5
        await remove_all(documents)
    finally:
        await database.close()


async def retried(documents: Documents, store_id: str):
    for _ in range(50):
        try:
            return await documents.stores.get(documents.tenant, store_id)
        except HubError:
            await asyncio.sleep(0.2)
    pytest.fail("the database did not come back")
