import asyncio
import dataclasses

import pytest

from aihub.core.errors import InternalError, InvalidRequestError, NotFoundError
from aihub.core.postgres import Database
from aihub.documents.tables.records import VectorStoreFileRecord
from tests.storage_parts import CHUNKING, Documents, chunk_rows, unit_vectors


async def expire_leases(database: Database, tenant: str) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE vector_store_files SET lease_until = now() - interval '1 s' WHERE tenant_id = %s", (tenant,)
        )


async def test_attached_file_waits_with_what_was_asked(documents: Documents) -> None:
    store, file = await documents.store(), await documents.file(filename="b.md")
    record = await documents.attach(store.id, file.id, {"năm": 2024, "loại": "luật", "mở": True, "giá": 1.5})
    assert record.status == "in_progress"
    assert record.filename == "b.md"
    assert record.attributes == {"năm": 2024, "loại": "luật", "mở": True, "giá": 1.5}
    assert record.chunking_strategy == CHUNKING
    assert (record.version, record.last_error, record.chunk_count) == (None, None, 0)
    assert await documents.links.get(documents.tenant, store.id, file.id) == record


async def test_attaching_twice_returns_the_first_record(documents: Documents) -> None:
    store = await documents.store()
    record = await documents.indexed(store.id, ["một"], attributes={"a": 1})
    assert await documents.attach(store.id, record.file_id, {"a": 2}) == record


async def test_attaching_a_failed_file_again_starts_anew(documents: Documents) -> None:
    store, file = await documents.store(), await documents.file()
    await documents.attach(store.id, file.id)
    await documents.links.fail(await documents.claim(), "invalid_file", "hỏng")
    record = await documents.attach(store.id, file.id, {"a": 2})
    assert (record.status, record.last_error, record.attributes) == ("in_progress", None, {"a": 2})
    assert (await documents.claim()).attempt == 1


async def test_attaching_needs_store_and_file_of_the_tenant(documents: Documents) -> None:
    store, file = await documents.store(), await documents.file()
    with pytest.raises(NotFoundError, match="file-none"):
        await documents.attach(store.id, "file-none")
    with pytest.raises(NotFoundError, match="vs_none"):
        await documents.attach("vs_none", file.id)
    stranger = Documents(documents.files._db, documents.tenant + "-2")
    with pytest.raises(NotFoundError):
        await stranger.attach(store.id, file.id)


async def test_completed_document_is_whole(documents: Documents, database: Database) -> None:
    store = await documents.store()
    record = await documents.indexed(store.id, ["Điều một.", "Điều hai.", "Điều ba."])
    assert (record.status, record.version, record.chunk_count) == ("completed", 1, 3)
    assert record.usage_bytes > 3 * 2 * 384
    assert await documents.files.get_text(documents.tenant, record.file_id) == "Điều một. Điều hai. Điều ba."
    assert (await documents.files.get(documents.tenant, record.file_id)).status == "processed"
    assert await documents.links.claim(60, "w") is None


async def test_each_waiting_file_goes_to_one_worker_only(documents: Documents) -> None:
    store = await documents.store()
    for number in range(12):
        await documents.attach(store.id, (await documents.file(data=bytes([number]))).id)

    async def work(name: str) -> list[str]:
        taken = []
        while (record := await documents.links.claim(60, name)) is not None:
            taken.append(record.file_id)
        return taken

    taken = await asyncio.gather(*(work(f"w{n}") for n in range(4)))
    everything = [file_id for part in taken for file_id in part]
    assert len(everything) == 12
    assert len(set(everything)) == 12


async def test_files_are_claimed_in_the_order_attached(documents: Documents) -> None:
    store = await documents.store()
    ids = [(await documents.file(data=bytes([n]))).id for n in range(3)]
    for file_id in ids:
        await documents.attach(store.id, file_id)
    assert [(await documents.claim()).file_id for _ in ids] == ids


async def test_dead_workers_file_is_given_out_three_times_and_then_fails(documents: Documents, database: Database) -> None:
    store, file = await documents.store(), await documents.file()
    await documents.attach(store.id, file.id)
    for attempt in (1, 2, 3):
        assert (await documents.claim()).attempt == attempt
        assert await documents.links.claim(60, "other") is None
        await expire_leases(database, documents.tenant)
    assert await documents.links.claim(60, "w") is None
    record = await documents.links.get(documents.tenant, store.id, file.id)
    assert record.status == "failed"
    assert record.last_error is not None
    assert record.last_error["code"] == "server_error"


async def test_heartbeat_keeps_a_claim_and_reports_its_loss(documents: Documents, database: Database) -> None:
    store, file = await documents.store(), await documents.file()
    await documents.attach(store.id, file.id)
    record = await documents.claim(lease_s=0.0)
    assert await documents.links.heartbeat(record, 60)
    assert await documents.links.claim(60, "other") is None
    await expire_leases(database, documents.tenant)
    await documents.claim()
    assert not await documents.links.heartbeat(record, 60)


async def test_released_claim_costs_no_attempt(documents: Documents) -> None:
    store, file = await documents.store(), await documents.file()
    await documents.attach(store.id, file.id)
    for _ in range(5):
        record = await documents.claim()
        assert record.attempt == 1
        assert await documents.links.release(record)
    assert await documents.links.release(await documents.claim(), delay_s=60)
    assert await documents.links.claim(60, "w") is None


async def lose_by_cancel(documents: Documents, record: VectorStoreFileRecord, _database: Database) -> None:
    await documents.links.cancel(documents.tenant, record.store_id, record.file_id)


async def lose_by_detach(documents: Documents, record: VectorStoreFileRecord, _database: Database) -> None:
    await documents.links.detach(documents.tenant, record.store_id, record.file_id)


async def lose_by_store_deletion(documents: Documents, record: VectorStoreFileRecord, _database: Database) -> None:
    await documents.stores.delete(documents.tenant, record.store_id)


async def lose_by_file_deletion(documents: Documents, record: VectorStoreFileRecord, _database: Database) -> None:
    await documents.files.delete(documents.tenant, record.file_id)


async def lose_by_takeover(documents: Documents, record: VectorStoreFileRecord, database: Database) -> None:
    await expire_leases(database, documents.tenant)
    await documents.claim()


@pytest.mark.parametrize(
    "lose", [lose_by_cancel, lose_by_detach, lose_by_store_deletion, lose_by_file_deletion, lose_by_takeover]
)
async def test_lost_claim_writes_nothing(documents: Documents, database: Database, lose) -> None:
    store, file = await documents.store(), await documents.file()
    await documents.attach(store.id, file.id)
    record = await documents.claim()
    await lose(documents, record, database)
    assert not await documents.links.complete(record, "một", "txt", chunk_rows(["một"]))
    assert not await documents.links.complete_from_duplicate(record)
    assert not await documents.links.fail(record, "server_error", "muộn")
    async with database.connection() as connection:
        cursor = await connection.execute(
            "SELECT (SELECT count(*) FROM chunks WHERE tenant_id = %(t)s), "
            "(SELECT count(*) FROM file_texts WHERE tenant_id = %(t)s), "
            "(SELECT count(*) FROM vector_store_files WHERE tenant_id = %(t)s AND status IN ('completed', 'failed'))",
            {"t": documents.tenant},
        )
        assert await cursor.fetchone() == (0, 0, 0)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda row: dataclasses.replace(row, text="a\x00b"), InvalidRequestError),
        (lambda row: dataclasses.replace(row, text="a\ud800b"), InvalidRequestError),
        (lambda row: dataclasses.replace(row, embedding=unit_vectors(1, 383)[0]), InternalError),
        (lambda row: dataclasses.replace(row, ordinal=0), InternalError),
    ],
    ids=["nul", "surrogate", "dimensions", "same ordinal"],
)
async def test_fault_in_the_last_chunk_leaves_nothing_behind(documents: Documents, fault, error) -> None:
    store, file = await documents.store(), await documents.file()
    await documents.attach(store.id, file.id)
    record = await documents.claim()
    rows = chunk_rows([f"câu {n}" for n in range(20)])
    with pytest.raises(error):
        await documents.links.complete(record, "văn bản", "txt", [*rows[:-1], fault(rows[-1])])
    after = await documents.stores.get(documents.tenant, store.id)
    assert (after.version, after.chunk_count, after.status) == (0, 0, "in_progress")
    with pytest.raises(NotFoundError):
        await documents.files.get_text(documents.tenant, file.id)
    assert await documents.links.complete(record, "văn bản", "txt", rows)


async def test_concurrent_completions_get_versions_in_commit_order(documents: Documents, database: Database) -> None:
    store = await documents.store()
    records = []
    for number in range(8):
        await documents.attach(store.id, (await documents.file(data=bytes([number]))).id)
        records.append(await documents.claim())
    seen: list[int] = []

    async def watch() -> None:
        while len(seen) < 8:
            async with database.connection() as connection:
                cursor = await connection.execute(
                    "SELECT version FROM vector_store_files WHERE tenant_id = %s AND version IS NOT NULL ORDER BY version",
                    (documents.tenant,),
                )
                versions = [row[0] for row in await cursor.fetchall()]
            assert versions[: len(seen)] == seen, "a version appeared before an already visible one"
            seen[:] = versions

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for number, record in enumerate(records):
            rows = chunk_rows([f"câu {n}" for n in range(5 + 40 * (number % 2))], None)
            group.create_task(documents.links.complete(record, "văn bản", "txt", rows))
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (await documents.stores.get(documents.tenant, store.id)).version == 8


async def test_connection_lost_in_the_middle_of_a_completion_leaves_nothing(documents: Documents, database: Database) -> None:
    store, file = await documents.store(), await documents.file()
    await documents.attach(store.id, file.id)
    record = await documents.claim()
    from aihub.core.errors import StorageUnavailableError
    from aihub.documents.tables.completion import write_document

    with pytest.raises(StorageUnavailableError):
        async with database.transaction() as connection:
            assert await write_document(connection, record, "văn bản", "txt", chunk_rows(["một", "hai"]))
            async with database.connection() as other:
                await other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
    after = await documents.stores.get(documents.tenant, store.id)
    assert (after.version, after.chunk_count, after.file_counts.in_progress) == (0, 0, 1)
    with pytest.raises(NotFoundError):
        await documents.files.get_text(documents.tenant, file.id)
    assert await documents.links.complete(record, "văn bản", "txt", chunk_rows(["một", "hai"]))


async def test_same_content_is_copied_instead_of_processed_again(documents: Documents, database: Database) -> None:
    source_store, store = await documents.store(), await documents.store()
    await documents.indexed(source_store.id, ["Điều một.", "Điều hai."])
    twin = await documents.file(data="Điều một. Điều hai.".encode(), filename="khác.TXT")
    await documents.attach(store.id, twin.id, {"a": 1})
    assert await documents.links.complete_from_duplicate(await documents.claim())
    copied = await documents.links.get(documents.tenant, store.id, twin.id)
    assert (copied.status, copied.chunk_count, copied.version, copied.attributes) == ("completed", 2, 1, {"a": 1})
    assert await documents.files.get_text(documents.tenant, twin.id) == "Điều một. Điều hai."
    async with database.connection() as connection:
        cursor = await connection.execute(
            """
            SELECT s.id, array_agg(c.text ORDER BY c.ordinal), array_agg(v.embedding::text ORDER BY c.ordinal),
                bool_and(g.chunk_ids[c.ordinal + 1] = c.id)
            FROM vector_stores AS s
            JOIN chunk_vectors AS v ON v.store_seq = s.seq
            JOIN chunks AS c ON c.id = v.chunk_id
            JOIN lexical_segments AS g ON g.store_file_seq = v.store_file_seq
            WHERE s.tenant_id = %s GROUP BY s.id
            """,
            (documents.tenant,),
        )
        rows = {row[0]: row[1:] for row in await cursor.fetchall()}
    assert rows[store.id] == rows[source_store.id]
    assert rows[store.id][2] is True


async def test_other_content_suffix_model_chunking_or_tenant_is_no_duplicate(documents: Documents, database: Database) -> None:
    source_store = await documents.store()
    await documents.indexed(source_store.id, ["một"])
    same = "một".encode()
    for data, filename, model in [(b"hai", "a.txt", "test-model"), (same, "a.md", "test-model"), (same, "a.txt", "other")]:
        store, file = await documents.store(model=model), await documents.file(data, filename)
        await documents.attach(store.id, file.id)
        assert not await documents.links.complete_from_duplicate(await documents.claim())
    file = await documents.file(same)
    await documents.links.attach(documents.tenant, source_store.id, file.id, attributes={}, chunking_strategy={"type": "other"})
    assert not await documents.links.complete_from_duplicate(await documents.claim())


async def test_duplicate_is_not_taken_from_another_tenant(documents: Documents, database: Database, embedded_stores) -> None:
    store = await documents.store()
    await documents.indexed(store.id, ["một"])
    stranger = Documents(database, documents.tenant + "-2")
    other_store, file = await stranger.store(), await stranger.file("một".encode())
    try:
        await stranger.attach(other_store.id, file.id)
        assert not await stranger.links.complete_from_duplicate(await stranger.claim())
    finally:
        await stranger.stores.delete(stranger.tenant, other_store.id)
        await stranger.files.delete(stranger.tenant, file.id)


async def test_list_pages_and_filters_by_status(documents: Documents) -> None:
    store = await documents.store()
    done = await documents.indexed(store.id, ["một"])
    waiting = [(await documents.file(data=bytes([n]))).id for n in range(3)]
    for file_id in waiting:
        await documents.attach(store.id, file_id)
    rows, more = await documents.links.list(documents.tenant, store.id, limit=2)
    assert [row.file_id for row in rows] == [waiting[2], waiting[1]]
    assert more
    rows, more = await documents.links.list(documents.tenant, store.id, after=waiting[1])
    assert [row.file_id for row in rows] == [waiting[0], done.file_id]
    assert not more
    rows, _ = await documents.links.list(documents.tenant, store.id, status="completed")
    assert rows == [done]
    with pytest.raises(NotFoundError):
        await documents.links.list(documents.tenant + "-2", store.id)


async def test_attributes_are_replaced(documents: Documents) -> None:
    store = await documents.store()
    record = await documents.indexed(store.id, ["một"], attributes={"a": 1, "b": "x"})
    changed = await documents.links.update_attributes(documents.tenant, store.id, record.file_id, {"b": "y"})
    assert changed.attributes == {"b": "y"}
    with pytest.raises(NotFoundError):
        await documents.links.update_attributes(documents.tenant + "-2", store.id, record.file_id, {})


async def test_detached_file_leaves_the_store_and_stays_a_file(documents: Documents) -> None:
    store = await documents.store()
    record = await documents.indexed(store.id, ["một", "hai"])
    await documents.links.detach(documents.tenant, store.id, record.file_id)
    after = await documents.stores.get(documents.tenant, store.id)
    assert (after.chunk_count, after.usage_bytes, after.file_counts.total, after.version) == (0, 0, 0, 2)
    assert (await documents.files.get(documents.tenant, record.file_id)).id == record.file_id
    with pytest.raises(NotFoundError):
        await documents.links.detach(documents.tenant, store.id, record.file_id)


async def test_cancel_leaves_a_completed_file_alone(documents: Documents) -> None:
    store = await documents.store()
    record = await documents.indexed(store.id, ["một"])
    assert await documents.links.cancel(documents.tenant, store.id, record.file_id) == record


async def test_media_and_documents_are_claimed_apart(documents: Documents) -> None:
    store = await documents.store()
    recording, text = await documents.file(b"OggS\0" + bytes(50), "a.txt"), await documents.file(filename="b.ogg")
    for file in (recording, text):
        await documents.attach(store.id, file.id)
    assert (await documents.claim()).file_id == text.id
    assert await documents.links.claim(60, "w") is None
    media = await documents.links.claim(60, "w", media=True)
    assert media is not None
    assert media.file_id == recording.id
    assert await documents.links.claim(60, "w", media=True) is None
