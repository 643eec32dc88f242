import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from aihub.core.errors import InvalidRequestError, NotFoundError, PayloadTooLargeError
from aihub.core.postgres import Database
from aihub.documents.tables.files import PART_BYTES, FileTable
from aihub.documents.tables.links import PART_CHARS
from tests.storage_parts import Documents, pieces


async def read(files: FileTable, tenant: str, file_id: str) -> bytes:
    return b"".join([piece async for piece in files.content(tenant, file_id)])


async def test_upload_comes_back_byte_for_byte_with_its_hash(documents: Documents) -> None:
    data = bytes(range(256)) * 10_000
    stream = pieces(data[:7], data[7 : PART_BYTES + 5], data[PART_BYTES + 5 :])
    record = await documents.files.create(documents.tenant, "hợp đồng.pdf", "assistants", stream, len(data))
    assert record.size_bytes == len(data)
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert record.filename == "hợp đồng.pdf"
    assert record.status == "uploaded"
    assert await read(documents.files, documents.tenant, record.id) == data
    assert await documents.files.get(documents.tenant, record.id) == record


async def test_empty_upload_has_no_bytes(documents: Documents) -> None:
    record = await documents.files.create(documents.tenant, "a", "assistants", pieces(), 10)
    assert record.size_bytes == 0
    assert await read(documents.files, documents.tenant, record.id) == b""


async def test_upload_over_the_limit_leaves_nothing_behind(documents: Documents, database: Database) -> None:
    with pytest.raises(PayloadTooLargeError):
        await documents.files.create(documents.tenant, "a", "assistants", pieces(b"x" * PART_BYTES, b"y" * 9), PART_BYTES + 8)
    assert await documents.files.list(documents.tenant) == ([], False)
    async with database.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM file_parts WHERE tenant_id = %s", (documents.tenant,))
        assert await cursor.fetchone() == (0,)


async def test_upload_whose_stream_breaks_leaves_nothing_behind(documents: Documents) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * PART_BYTES
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await documents.files.create(documents.tenant, "a", "assistants", broken(), 2**30)
    assert await documents.files.list(documents.tenant) == ([], False)


async def test_files_of_another_tenant_are_invisible(documents: Documents) -> None:
    record = await documents.file()
    stranger = documents.tenant + "-2"
    with pytest.raises(NotFoundError):
        await documents.files.get(stranger, record.id)
    with pytest.raises(NotFoundError):
        await read(documents.files, stranger, record.id)
    with pytest.raises(NotFoundError):
        await documents.files.delete(stranger, record.id)
    assert await documents.files.list(stranger) == ([], False)
    assert await documents.files.get(documents.tenant, record.id) == record


async def test_list_pages_in_both_orders_without_gaps(documents: Documents) -> None:
    ids = [(await documents.file(filename=f"{n}.txt")).id for n in range(5)]
    first, more = await documents.files.list(documents.tenant, limit=2)
    assert [row.id for row in first] == [ids[4], ids[3]]
    assert more
    second, more = await documents.files.list(documents.tenant, limit=3, after=ids[3])
    assert [row.id for row in second] == [ids[2], ids[1], ids[0]]
    assert not more
    ascending, more = await documents.files.list(documents.tenant, limit=2, after=ids[1], order="asc")
    assert [row.id for row in ascending] == [ids[2], ids[3]]
    assert more


async def test_list_after_an_unknown_file_names_the_field(documents: Documents) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await documents.files.list(documents.tenant, after="file-none")
    assert caught.value.param == "after"


async def test_list_can_be_narrowed_to_a_purpose(documents: Documents) -> None:
    await documents.file()
    batch = await documents.files.create(documents.tenant, "b", "batch", pieces(b"1"), 9)
    rows, _ = await documents.files.list(documents.tenant, purpose="batch")
    assert [row.id for row in rows] == [batch.id]


async def test_expired_file_is_gone_and_then_deleted(documents: Documents, database: Database) -> None:
    record = await documents.files.create(documents.tenant, "a", "assistants", pieces(b"1"), 9, expires_after_s=3600)
    assert record.expires_at == record.created_at + 3600
    async with database.connection() as connection:
        await connection.execute("UPDATE files SET expires_at = now() WHERE tenant_id = %s", (documents.tenant,))
    with pytest.raises(NotFoundError):
        await documents.files.get(documents.tenant, record.id)
    assert await documents.files.delete_expired() == 1
    async with database.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM files WHERE tenant_id = %s", (documents.tenant,))
        assert await cursor.fetchone() == (0,)


async def test_value_that_cannot_be_stored_is_a_bad_request(documents: Documents) -> None:
    for name in ("a\x00b", "a\ud800b"):
        with pytest.raises(InvalidRequestError):
            await documents.files.create(documents.tenant, name, "assistants", pieces(b"1"), 9)


@pytest.mark.parametrize("length", [0, 1, PART_CHARS, PART_CHARS + 1, 3 * PART_CHARS + 17])
async def test_text_slices_are_exact_substrings(documents: Documents, length: int) -> None:
    text = ("Điều khoản 𝟙 về bảo hành. " * (length // 10 + 1))[:length]
    record = await documents.file()
    await documents.files.save_text(documents.tenant, record.id, text, "txt")
    assert await documents.files.get_text(documents.tenant, record.id) == text
    edges = {0, 1, length // 2, PART_CHARS - 1, PART_CHARS, PART_CHARS + 1, 2 * PART_CHARS, length, length + 5}
    for start in edges:
        for end in edges:
            assert await documents.files.text_slice(documents.tenant, record.id, start, end) == text[start:end]


async def test_text_saved_twice_is_replaced(documents: Documents) -> None:
    record = await documents.file()
    await documents.files.save_text(documents.tenant, record.id, "x" * (2 * PART_CHARS), "txt")
    await documents.files.save_text(documents.tenant, record.id, "ngắn", "txt")
    assert await documents.files.get_text(documents.tenant, record.id) == "ngắn"


async def test_text_of_an_unprocessed_or_foreign_file_is_not_found(documents: Documents) -> None:
    record = await documents.file()
    with pytest.raises(NotFoundError):
        await documents.files.get_text(documents.tenant, record.id)
    await documents.files.save_text(documents.tenant, record.id, "riêng", "txt")
    with pytest.raises(NotFoundError):
        await documents.files.text_slice(documents.tenant + "-2", record.id, 0, 3)
    with pytest.raises(NotFoundError):
        await documents.files.save_text(documents.tenant + "-2", record.id, "x", "txt")


async def test_deleting_a_file_removes_it_from_every_store(documents: Documents) -> None:
    stores = [await documents.store(), await documents.store()]
    record = await documents.indexed(stores[0].id, ["một", "hai"])
    await documents.attach(stores[1].id, record.file_id)
    assert await documents.links.complete_from_duplicate(await documents.claim())
    await documents.files.delete(documents.tenant, record.file_id)
    for store in await documents.stores.get_many(documents.tenant, [s.id for s in stores]):
        assert (store.chunk_count, store.usage_bytes, store.file_counts.total, store.version) == (0, 0, 0, 2)
    with pytest.raises(NotFoundError):
        await documents.files.get_text(documents.tenant, record.file_id)


async def test_deletion_during_completion_ends_with_both_done_or_the_claim_lost(documents: Documents) -> None:
    store = await documents.store()
    for _ in range(5):
        file = await documents.file()
        await documents.attach(store.id, file.id)
        record = await documents.claim()
        await asyncio.gather(
            documents.links.complete(record, "một", "txt", []), documents.files.delete(documents.tenant, file.id)
        )
    after = await documents.stores.get(documents.tenant, store.id)
    assert (after.file_counts.total, after.chunk_count) == (0, 0)
