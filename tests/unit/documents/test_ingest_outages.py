"""What outages and crashes leave of a document, and how it gets indexed after them."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import ModelUnavailableError
from aihub.core.postgres import Database
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.tables.chunks import ChunkTable
from tests.storage_parts import Documents
from tests.unit.documents.ingest_parts import CuttableLine, Ingest, SteeredEmbedder, running_ingest, started_parser, text_vector

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


async def test_embedder_outage_is_waited_out(ingest: Ingest) -> None:
    ingest.embedder.errors = [ModelUnavailableError("The model is loading.")] * 2
    store_id = await ingest.store_id()
    record = await ingest.finished(store_id, await ingest.attach(store_id, LAW.encode()))
    assert (record.status, record.attempt) == ("completed", 1)


async def test_embedder_gone_for_good_fails_after_three_attempts(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> None:
    embedder.errors = [ModelUnavailableError("The model has died.")] * 100
    async with running_ingest(database, tenant, parser, embedder, lease_s=0.3, poll_s=0.05, outage_patience_s=0.1) as ingest:
        store_id = await ingest.store_id()
        file_id = await ingest.attach(store_id, LAW.encode())
        await ingest.embedder.entered.wait()
        assert (await ingest.status(store_id, file_id)).status == "in_progress"
        record = await ingest.finished(store_id, file_id)
        assert record.last_error is not None
        assert (record.last_error["code"], record.attempt) == ("server_error", 3)
        embedder.errors = []
        await ingest.assert_good_document_works(store_id)


async def test_shutdown_gives_the_document_back_at_once(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> None:
    embedder.gate.clear()
    async with running_ingest(database, tenant, parser, embedder) as first:
        store_id = await first.store_id()
        file_id = await first.attach(store_id, LAW.encode())
        await embedder.entered.wait()
    embedder.gate.set()
    async with running_ingest(database, tenant, parser, embedder) as second:
        record = await second.finished(store_id, file_id, timeout_s=5)
    assert (record.status, record.attempt) == ("completed", 1)


async def test_database_outage_is_waited_out(
    embedded_stores: StoreUrls, database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> None:
    line = CuttableLine(embedded_stores.database_url)
    cuttable = Database(await line.open(), pool_size=4, timeout_s=1.0)
    await cuttable.open()
    try:
        async with running_ingest(cuttable, tenant, parser, embedder) as ingest:
            embedder.gate.clear()
            store_id = await ingest.store_id()
            file_id = await ingest.attach(store_id, LAW.encode())
            await embedder.entered.wait()
            await line.cut()
            embedder.gate.set()
            await asyncio.sleep(1.0)
            assert (await Documents(database, tenant).links.get(tenant, store_id, file_id)).status == "in_progress"
            await line.mend()
            record = await Ingest(Documents(database, tenant), embedder, ingest.metrics, ingest.worker).finished(
                store_id, file_id
            )
            assert (record.status, record.chunk_count, record.attempt) == ("completed", 1, 1)
    finally:
        await cuttable.close()
        await line.cut()


@pytest.mark.parametrize("moment", ["embedding", "writing"])
async def test_killed_worker_leaves_the_document_absent_and_another_completes_it(
    embedded_stores: StoreUrls,
    database: Database,
    tenant: str,
    parser: DocumentParser,
    embedder: SteeredEmbedder,
    moment: str,
) -> None:
    documents = Documents(database, tenant)
    store = await documents.store(model=embedder.model_id)
    file = await documents.file("\n\n".join(f"Đoạn {number}: {LAW}" for number in range(50)).encode())
    await documents.attach(store.id, file.id)
    with psycopg.connect(embedded_stores.database_url) as blocker:
        if moment == "writing":
            # The last statement of a completion updates the store; everything else is written by then.
            blocker.execute("SELECT FROM vector_stores WHERE id = %s FOR NO KEY UPDATE", (store.id,))
        child = _worker_process(embedded_stores.database_url, moment)
        try:
            await asyncio.to_thread(_wait_until, embedded_stores.database_url, child, moment)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
    record = await documents.links.get(tenant, store.id, file.id)
    assert (record.status, record.chunk_count) == ("in_progress", 0)
    assert await ChunkTable(database).vector_search(tenant, [store.id], text_vector("a", 384), 10) == []
    async with running_ingest(database, tenant, parser, embedder, poll_s=0.1) as ingest:
        record = await ingest.finished(store.id, file.id)
    assert (record.status, record.attempt) == ("completed", 2)
    async with database.connection() as connection:
        cursor = await connection.execute("SELECT count(*) FROM chunks WHERE tenant_id = %s", (tenant,))
        assert await cursor.fetchone() == (record.chunk_count,)


def _worker_process(dsn: str, moment: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.unit.documents.worker_process", dsn, moment]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _wait_until(dsn: str, child: "subprocess.Popen[str]", moment: str) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == "embedding\n"
    deadline = time.monotonic() + 10
    with psycopg.connect(dsn, autocommit=True) as watcher:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE vector_stores%'"
        while moment == "writing" and watcher.execute(query).fetchone() == (0,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
