import pytest

from aihub.core.errors import ConfigurationError, InvalidRequestError, NotFoundError
from aihub.core.postgres import Database
from aihub.documents.tables.records import FileCounts
from tests.storage_parts import Documents


async def test_new_store_is_empty_and_complete(documents: Documents) -> None:
    created = await documents.stores.create(
        documents.tenant,
        name="Luật",
        description="văn bản",
        metadata={"vùng": "VN"},
        embedding_model="m",
        dimensions=384,
        expires_after={"anchor": "last_active_at", "days": 2},
    )
    assert (created.name, created.description, created.metadata) == ("Luật", "văn bản", {"vùng": "VN"})
    assert created.status == "completed"
    assert created.file_counts == FileCounts()
    assert (created.version, created.usage_bytes, created.chunk_count) == (0, 0, 0)
    assert created.expires_after == {"anchor": "last_active_at", "days": 2}
    assert created.last_active_at is not None
    assert created.expires_at == created.last_active_at + 2 * 86_400
    assert await documents.stores.get(documents.tenant, created.id) == created


async def test_counts_and_status_follow_the_files(documents: Documents) -> None:
    store = await documents.store()
    await documents.indexed(store.id, ["một", "hai"])
    failing, cancelled, waiting = [await documents.file(data=bytes([n])) for n in range(3)]
    await documents.attach(store.id, failing.id)
    assert await documents.links.fail(await documents.claim(), "invalid_file", "hỏng")
    await documents.attach(store.id, cancelled.id)
    await documents.links.cancel(documents.tenant, store.id, cancelled.id)
    await documents.attach(store.id, waiting.id)
    now = await documents.stores.get(documents.tenant, store.id)
    assert now.file_counts == FileCounts(in_progress=1, completed=1, failed=1, cancelled=1, total=4)
    assert now.status == "in_progress"
    assert now.chunk_count == 2
    assert now.usage_bytes > 2 * 2 * 384


async def test_update_changes_only_what_is_given(documents: Documents) -> None:
    store = await documents.store()
    changed = await documents.stores.update(documents.tenant, store.id, {"metadata": {"a": "1"}})
    assert (changed.name, changed.metadata, changed.expires_after) == ("Kho", {"a": "1"}, None)
    expiring = {"anchor": "last_active_at", "days": 1}
    changed = await documents.stores.update(documents.tenant, store.id, {"name": None, "expires_after": expiring})
    assert (changed.name, changed.metadata, changed.expires_after) == (None, {"a": "1"}, expiring)
    changed = await documents.stores.update(documents.tenant, store.id, {"metadata": None, "expires_after": None})
    assert (changed.metadata, changed.expires_after, changed.expires_at) == ({}, None, None)


async def test_unused_store_expires_and_stays_so(documents: Documents, database: Database) -> None:
    store = await documents.store()
    await documents.stores.update(documents.tenant, store.id, {"expires_after": {"anchor": "last_active_at", "days": 1}})
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE vector_stores SET last_active_at = now() - interval '25 hours' WHERE tenant_id = %s", (documents.tenant,)
        )
    assert (await documents.stores.get(documents.tenant, store.id)).status == "expired"
    await documents.stores.touch(documents.tenant, [store.id])
    assert (await documents.stores.get(documents.tenant, store.id)).status == "expired"


async def test_use_of_a_store_is_noted(documents: Documents, database: Database) -> None:
    store = await documents.store()
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE vector_stores SET last_active_at = now() - interval '1 hour' WHERE tenant_id = %s", (documents.tenant,)
        )
    await documents.stores.touch(documents.tenant, [store.id])
    touched = await documents.stores.get(documents.tenant, store.id)
    assert touched.last_active_at is not None
    assert touched.last_active_at >= store.created_at - 1


async def test_pages_can_be_read_forwards_and_backwards(documents: Documents) -> None:
    ids = [(await documents.store()).id for _ in range(5)]
    rows, more = await documents.stores.list(documents.tenant, limit=2, before=ids[1])
    assert [row.id for row in rows] == [ids[3], ids[2]]
    assert more
    rows, more = await documents.stores.list(documents.tenant, limit=9, before=ids[1], order="asc")
    assert [row.id for row in rows] == [ids[0]]
    assert not more
    with pytest.raises(InvalidRequestError):
        await documents.stores.list(documents.tenant, after=ids[0], before=ids[1])


async def test_many_stores_come_in_the_order_asked_or_the_missing_one_is_named(documents: Documents) -> None:
    one, two = await documents.store(), await documents.store()
    rows = await documents.stores.get_many(documents.tenant, [two.id, one.id])
    assert [row.id for row in rows] == [two.id, one.id]
    with pytest.raises(NotFoundError, match="vs_none"):
        await documents.stores.get_many(documents.tenant, [one.id, "vs_none"])
    with pytest.raises(NotFoundError):
        await documents.stores.get_many(documents.tenant + "-2", [one.id])


async def test_deleted_store_takes_its_chunks_along_and_leaves_the_files(documents: Documents, database: Database) -> None:
    store = await documents.store()
    record = await documents.indexed(store.id, ["một", "hai"])
    await documents.stores.delete(documents.tenant, store.id)
    with pytest.raises(NotFoundError):
        await documents.stores.delete(documents.tenant, store.id)
    async with database.connection() as connection:
        for query in (
            "SELECT count(*) FROM chunks WHERE tenant_id = %s",
            "SELECT count(*) FROM chunk_vectors WHERE tenant_id = %s",
            "SELECT count(*) FROM lexical_segments WHERE tenant_id = %s",
        ):
            assert await (await connection.execute(query, (documents.tenant,))).fetchone() == (0,)
    assert await documents.files.get_text(documents.tenant, record.file_id) == "một hai"


async def test_stores_of_another_tenant_are_invisible(documents: Documents) -> None:
    store = await documents.store()
    stranger = documents.tenant + "-2"
    with pytest.raises(NotFoundError):
        await documents.stores.get(stranger, store.id)
    with pytest.raises(NotFoundError):
        await documents.stores.update(stranger, store.id, {"name": "x"})
    with pytest.raises(NotFoundError):
        await documents.stores.delete(stranger, store.id)
    assert await documents.stores.list(stranger) == ([], False)


@pytest.mark.parametrize("dimensions", [0, 4001])
async def test_vectors_that_cannot_be_indexed_are_refused(documents: Documents, dimensions: int) -> None:
    with pytest.raises(ConfigurationError, match="1 to 4000"):
        await documents.store(dimensions=dimensions)


async def test_store_of_other_dimensions_gets_an_index_of_its_own(documents: Documents, database: Database) -> None:
    await documents.store(dimensions=48)
    await documents.store(dimensions=48)
    async with database.connection() as connection:
        cursor = await connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'chunk_vectors_hnsw_48'")
        (definition,) = await cursor.fetchone() or ("",)
    assert "halfvec(48)" in definition
    assert "dimensions = 48" in definition
