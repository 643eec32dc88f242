"""Indexing a document is a request of its tenant, however it ends."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from aihub.core.postgres import Database
from aihub.core.request_record import RequestRecord, current_record
from aihub.documents.ingest_bill import billed
from aihub.documents.parsing.parser import DocumentParser
from tests.unit.documents.ingest_parts import Ingest, SteeredEmbedder, running_ingest


class Sink:
    def __init__(self) -> None:
        self.open: list[RequestRecord] = []
        self.records: list[RequestRecord] = []

    def begin(self, record: RequestRecord) -> None:
        self.open.append(record)

    def end(self, record: RequestRecord) -> None:
        self.open.remove(record)

    def record(self, record: RequestRecord) -> None:
        self.records.append(record)


class Embedder(SteeredEmbedder):
    """Notes whose work it does."""

    def __init__(self) -> None:
        super().__init__()
        self.worked_for: list[RequestRecord | None] = []

    async def embed(self, inputs):  # type: ignore[no-untyped-def]  # as in the base
        self.worked_for.append(current_record.get())
        return await super().embed(inputs)


@pytest.fixture
async def ingest(database: Database, tenant: str, parser: DocumentParser) -> AsyncIterator[Ingest]:
    async with running_ingest(database, tenant, parser, Embedder()) as ingest:
        ingest.worker.usage = Sink()
        yield ingest


async def test_documents_leave_records_of_their_tenant_and_their_vectors_are_made_for_them(ingest: Ingest, tenant: str) -> None:
    sink, embedder = ingest.worker.usage, ingest.embedder
    assert isinstance(sink, Sink)
    assert isinstance(embedder, Embedder)
    store_id = await ingest.store_id()
    good = await ingest.attach(store_id, "Cửa hàng mở cửa lúc tám giờ.".encode(), "good.txt")
    assert (await ingest.finished(store_id, good)).status == "completed"
    bad = await ingest.attach(store_id, b"\x00\x01\x02\x03" * 100, "bad.bin")
    assert (await ingest.finished(store_id, bad)).status == "failed"
    async with asyncio.timeout(5):
        while len(sink.records) < 2:  # noqa: ASYNC110  # they come after the document's own end
            await asyncio.sleep(0.01)
    assert [record.status for record in sink.records] == [200, 422]
    assert {record.principal.tenant_id for record in sink.records} == {tenant}
    assert embedder.worked_for == [sink.records[0]]
    assert sink.open == []


async def test_an_attempt_that_is_given_up_is_recorded_too() -> None:
    sink = Sink()

    async def hang() -> str:
        await asyncio.sleep(60)
        return "completed"

    task = asyncio.create_task(billed(hang(), "shop", sink))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [record.status for record in sink.records] == [499]
    assert sink.records[0].total_s > 0
    assert sink.open == []
