"""From attached file to searchable chunks: what completes, what fails and why, and what outages and crashes leave."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from aihub.core.errors import NotFoundError
from aihub.core.postgres import Database
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.tables.chunks import ChunkTable
from tests.unit.documents import bad_documents
from tests.unit.documents.ingest_parts import MAX_TOKENS, Ingest, SteeredEmbedder, running_ingest, started_parser, text_vector

LAW = "Điều 1. Hợp đồng lao động phải được giao kết bằng văn bản. Điều 2. Người lao động được nghỉ phép năm."


@pytest.fixture(scope="module")
def parser() -> Iterator[DocumentParser]:
    with started_parser() as parser:
        yield parser


@pytest.fixture
def embedder() -> SteeredEmbedder:
    return SteeredEmbedder()


@pytest.fixture
async def ingest(database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder) -> AsyncIterator[Ingest]:
    async with running_ingest(database, tenant, parser, embedder) as running:
        yield running


async def found(ingest: Ingest, database: Database, store_id: str, text: str) -> list[str]:
    """Texts of the chunks of a store, most similar to `text` first."""
    hits = await ChunkTable(database).vector_search(ingest.documents.tenant, [store_id], text_vector(text, 384), 10)
    return [hit.text for hit in hits]


async def test_attached_file_becomes_searchable(ingest: Ingest, database: Database) -> None:
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, LAW.encode(), "luật.txt")
    record = await ingest.finished(store_id, file_id)
    assert (record.status, record.last_error, record.chunk_count) == ("completed", None, 1)
    assert record.usage_bytes > 0
    assert await ingest.documents.files.get_text(ingest.documents.tenant, file_id) == LAW
    assert await found(ingest, database, store_id, LAW) == [LAW]
    assert ingest.metrics.ingested_files.labels(status="completed")._value.get() == 1
    assert ingest.metrics.ingested_chunks._value.get() == 1


async def test_nudge_starts_work_at_once(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> None:
    async with running_ingest(database, tenant, parser, embedder, poll_s=60.0) as ingest:
        store_id = await ingest.store_id()
        await asyncio.sleep(0.2)
        for _ in range(5):
            file_id = await ingest.attach(store_id, LAW.encode())
            assert (await ingest.finished(store_id, file_id, timeout_s=5)).status == "completed"


async def test_chunk_longer_than_the_embedder_reads_is_the_mean_of_its_windows(ingest: Ingest, database: Database) -> None:
    text = " ".join(f"từ{number}" for number in range(75)) + "."
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, text.encode())
    record = await ingest.finished(store_id, file_id)
    assert (record.status, record.chunk_count) == ("completed", 1)
    assert len(ingest.embedder.texts) > 1
    assert "".join(sorted(ingest.embedder.texts, key=text.index)) == text
    mean = np.sum([text_vector(piece, 384) for piece in ingest.embedder.texts], axis=0)
    hits = await ChunkTable(database).vector_search(ingest.documents.tenant, [store_id], mean / np.linalg.norm(mean), 1)
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)


async def test_text_without_spaces_is_cut_to_fit(ingest: Ingest) -> None:
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, ("😀漢字" * 500).encode())
    assert (await ingest.finished(store_id, file_id)).status == "completed"
    assert max(len(ingest.embedder._tokenizer.encode(text).ids) for text in ingest.embedder.texts) <= MAX_TOKENS


async def test_same_content_reuses_the_vectors(ingest: Ingest, database: Database) -> None:
    first, second = await ingest.store_id(), await ingest.store_id()
    await ingest.finished(first, await ingest.attach(first, LAW.encode()))
    computed = list(ingest.embedder.texts)
    file_id = await ingest.attach(second, LAW.encode())
    assert (await ingest.finished(second, file_id)).status == "completed"
    assert ingest.embedder.texts == computed
    assert await found(ingest, database, second, LAW) == [LAW]


@pytest.mark.parametrize(
    ("filename", "data", "code", "reason"),
    [
        ("trắng.txt", b" \n\t ", "invalid_file", "no readable text"),
        ("khóa.pdf", bad_documents.encrypted_pdf(), "invalid_file", "password"),
        ("vòng.pdf", bad_documents.looping_pdf(), "invalid_file", "damaged"),
        ("dài.pdf", bad_documents.many_pages_pdf(3_000), "invalid_file", "pages"),
        ("bom.docx", bad_documents.zip_bomb_docx(300_000_000), "invalid_file", "archive"),
        ("thực thể.docx", bad_documents.entity_bomb_docx(), "invalid_file", "entities"),
        ("rò.docx", bad_documents.external_entity_docx("/etc/passwd"), "invalid_file", "entities"),
        ("sai.pdf", "Chỉ là văn bản mang đuôi sai.".encode(), "invalid_file", "suffix"),
        ("giả.pdf", b"\x7fELF" + bytes(2000), "unsupported_file", "Upload txt"),
        ("hỏng.docx", b"PK\x03\x04" + bytes(100), "invalid_file", ""),
        ("cắt.json", b'{"a": [1, 2', "invalid_file", ""),
    ],
)
async def test_bad_document_fails_with_a_reason_and_the_next_one_works(
    ingest: Ingest, filename: str, data: bytes, code: str, reason: str
) -> None:
    store_id = await ingest.store_id()
    record = await ingest.finished(store_id, await ingest.attach(store_id, data, filename))
    assert record.status == "failed"
    assert record.last_error is not None
    assert record.last_error["code"] == code
    assert reason in record.last_error["message"]
    assert record.chunk_count == 0
    await ingest.assert_good_document_works(store_id)


async def test_one_line_of_fifty_megabytes_fails_with_a_reason(ingest: Ingest, tenant: str) -> None:
    async def line() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"abc def " * (2**17)

    store_id = await ingest.store_id()
    file = await ingest.documents.files.create(tenant, "dòng.txt", "assistants", line(), 64 * 2**20)
    await ingest.documents.attach(store_id, file.id)
    record = await ingest.finished(store_id, file.id)
    assert record.last_error is not None
    assert record.last_error["code"] == "invalid_file"
    assert "split" in record.last_error["message"]
    await ingest.assert_good_document_works(store_id)


@pytest.mark.parametrize(
    ("filename", "data", "kept", "dropped"),
    [
        ("a.txt", "Giá là 5 €.".encode("utf-16"), "Giá là 5 €.", ""),
        ("b.txt", "Café crème brûlée, s'il vous plaît.".encode("latin-1"), "Café crème", ""),
        ("c.html", b"<p>Hello there</p><script>steal()</script><style>p{}</style>", "Hello there", "steal"),
        ("d.md", b"# Title\n\n![pixel](http://tracker.invalid/p.png)\n\nBody text.", "Body text.", ""),
    ],
)
async def test_unusual_document_completes(ingest: Ingest, filename: str, data: bytes, kept: str, dropped: str) -> None:
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, data, filename)
    record = await ingest.finished(store_id, file_id)
    assert record.status == "completed", record.last_error
    text = await ingest.documents.files.get_text(ingest.documents.tenant, file_id)
    assert kept in text
    assert not dropped or dropped not in text


async def test_other_embedding_model_fails_naming_both(ingest: Ingest) -> None:
    store = await ingest.documents.store(model="old-model")
    record = await ingest.finished(store.id, await ingest.attach(store.id, LAW.encode()))
    assert record.last_error is not None
    assert record.last_error["code"] == "server_error"
    assert "'old-model'" in record.last_error["message"]
    assert "'steered-embedder'" in record.last_error["message"]


async def test_bug_in_a_part_fails_the_document_without_its_details(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(ingest.embedder, "embed", broken)
    store_id = await ingest.store_id()
    record = await ingest.finished(store_id, await ingest.attach(store_id, LAW.encode()))
    assert record.last_error is not None
    assert record.last_error["code"] == "server_error"
    assert "secret" not in record.last_error["message"]
    monkeypatch.undo()
    await ingest.assert_good_document_works(store_id)


@pytest.mark.parametrize("how", ["delete the file", "detach", "delete the store"])
async def test_deleted_while_indexing_is_absent(ingest: Ingest, database: Database, how: str) -> None:
    ingest.embedder.gate.clear()
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, LAW.encode())
    await ingest.embedder.entered.wait()
    tenant = ingest.documents.tenant
    match how:
        case "delete the file":
            await ingest.documents.files.delete(tenant, file_id)
        case "detach":
            await ingest.documents.links.detach(tenant, store_id, file_id)
        case _:
            await ingest.documents.stores.delete(tenant, store_id)
    ingest.embedder.gate.set()
    other = await ingest.store_id()
    await ingest.assert_good_document_works(other)
    with pytest.raises(NotFoundError):
        await ingest.status(store_id, file_id)
    assert await found(ingest, database, store_id, LAW) == []


async def test_cancelled_while_indexing_stays_cancelled_and_stops_early(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> None:
    async with running_ingest(database, tenant, parser, embedder, lease_s=0.3) as ingest:
        ingest.embedder.gate.clear()
        store_id = await ingest.store_id()
        file_id = await ingest.attach(store_id, LAW.encode())
        await ingest.embedder.entered.wait()
        await ingest.documents.links.cancel(tenant, store_id, file_id)
        await asyncio.sleep(0.4)
        assert ingest.metrics.ingested_files.labels(status="lost")._value.get() == 1  # though the embedder still hangs
        assert (await ingest.status(store_id, file_id)).status == "cancelled"
        assert await found(ingest, database, store_id, LAW) == []


async def test_no_more_documents_than_slots_are_worked_on(ingest: Ingest) -> None:
    ingest.embedder.gate.clear()
    store_id = await ingest.store_id()
    files = [await ingest.attach(store_id, f"Tài liệu số {number}.".encode()) for number in range(4)]
    await asyncio.sleep(0.5)
    attempts = [(await ingest.status(store_id, file_id)).attempt for file_id in files]
    assert attempts == [1, 1, 0, 0]
    ingest.embedder.gate.set()
    assert [(await ingest.finished(store_id, file_id)).status for file_id in files] == ["completed"] * 4


async def test_worker_ends_although_the_database_swallows_its_cancellation(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()

    async def claim(*_: object, **__: object) -> None:
        entered.set()
        with suppress(asyncio.CancelledError):  # as asyncio.wait_for of Python 3.11 does at a bad moment
            await asyncio.sleep(60)

    monkeypatch.setattr(ingest.worker, "_store_files", SimpleNamespace(claim=claim))
    second = asyncio.create_task(ingest.worker.run())
    await entered.wait()
    second.cancel()
    await asyncio.wait({second}, timeout=5)
    assert second.cancelled()
