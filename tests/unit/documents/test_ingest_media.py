"""Recordings and images on their way into a vector store: by the text that a reader makes of them, and the times of its words."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from aihub.core.errors import ModelUnavailableError, NotFoundError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.service import MediaText
from aihub.documents.tables.chunks import ChunkTable
from aihub.documents.tables.records import ChunkHit
from aihub.documents.time_spans import time_range
from tests.unit.documents.ingest_parts import Ingest, SteeredEmbedder, running_ingest, started_parser, text_vector
from tests.unit.documents.media_parts import SteeredReader, spoken_text, times_of, wav

LAW = "hợp đồng lao động phải được giao kết bằng văn bản"
LECTURE = spoken_text("\n\n".join(f"điều {number} nói rằng {LAW} theo khoản {number}" for number in range(1, 60)))
NOT_INSTALLED = "No speech model is installed. Install one: `aihub models download vosk:vi`."


@pytest.fixture(scope="module")
def parser() -> Iterator[DocumentParser]:
    with started_parser() as parser:
        yield parser


@pytest.fixture
def embedder() -> SteeredEmbedder:
    return SteeredEmbedder()


@pytest.fixture
def reader() -> SteeredReader:
    return SteeredReader(LECTURE)


@pytest.fixture
async def ingest(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder, reader: SteeredReader
) -> AsyncIterator[Ingest]:
    async with running_ingest(database, tenant, parser, embedder, media_reader=reader, lease_s=0.6) as running:
        yield running


async def chunks_of(ingest: Ingest, database: Database, store_id: str) -> list[ChunkHit]:
    """All chunks of a store, in the order of the document."""
    found = await ChunkTable(database).vector_search(ingest.documents.tenant, [store_id], text_vector("a", 384), 1000)
    return sorted(found, key=lambda hit: hit.ordinal)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is counted has no event
            await asyncio.sleep(0.02)


async def test_recording_is_indexed_by_its_transcript_with_the_time_of_every_word(ingest: Ingest, database: Database) -> None:
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, wav(), "bài giảng.wav")
    record = await ingest.finished(store_id, file_id)
    assert (record.status, record.last_error) == ("completed", None)
    assert await ingest.documents.files.get_text(ingest.documents.tenant, file_id) == LECTURE.text
    chunks = await chunks_of(ingest, database, store_id)
    assert len(chunks) == record.chunk_count > 3
    for chunk in chunks:
        assert chunk.text == LECTURE.text[chunk.start_char : chunk.end_char]
        said = [span for span in LECTURE.spans if chunk.start_char <= span.start_char < chunk.end_char]
        assert time_range(chunk.time_spans, chunk.start_char, chunk.end_char) == (said[0].start_s, said[-1].end_s)


async def test_a_quote_in_the_middle_of_a_chunk_has_its_own_time(ingest: Ingest, database: Database) -> None:
    store_id = await ingest.store_id()
    await ingest.finished(store_id, await ingest.attach(store_id, wav()))
    quote = "giao kết bằng văn bản theo khoản 31"
    (chunk,) = [hit for hit in await chunks_of(ingest, database, store_id) if quote in hit.text]
    start = chunk.start_char + chunk.text.index(quote)
    assert time_range(chunk.time_spans, start, start + len(quote)) == times_of(LECTURE, quote.split())


async def test_chunks_that_overlap_each_have_the_times_of_what_they_repeat(
    ingest: Ingest, database: Database, tenant: str
) -> None:
    store_id, file = await ingest.store_id(), await ingest.documents.file(wav(), "a.wav")
    sizes = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}}
    await ingest.documents.links.attach(tenant, store_id, file.id, attributes={}, chunking_strategy=sizes)
    ingest.worker.nudge()
    await ingest.finished(store_id, file.id)
    chunks = await chunks_of(ingest, database, store_id)
    for earlier, later in zip(chunks, chunks[1:], strict=False):
        assert later.start_char < earlier.end_char
        shared = (later.start_char, earlier.end_char)
        assert time_range(earlier.time_spans, *shared) == time_range(later.time_spans, *shared) is not None


async def test_image_is_indexed_by_its_caption_without_times(
    ingest: Ingest, database: Database, tenant: str, reader: SteeredReader
) -> None:
    reader.media = MediaText("Một con mèo nằm trên ghế.", "image")
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, b"\x89PNG\r\n\x1a\n" + bytes(100), "mèo.png")
    assert (await ingest.finished(store_id, file_id)).status == "completed"
    assert [(hit.text, hit.time_spans) for hit in await chunks_of(ingest, database, store_id)] == [(reader.media.text, None)]
    async with database.connection() as connection:
        cursor = await connection.execute(
            "SELECT format FROM file_texts WHERE tenant_id = %s AND file_id = %s", (tenant, file_id)
        )
        assert await cursor.fetchall() == [("image",)]


async def test_ordinary_documents_are_not_shown_to_the_reader(ingest: Ingest, database: Database, reader: SteeredReader) -> None:
    store_id = await ingest.store_id()
    # Its name does not make it a recording.
    file_id = await ingest.attach(store_id, LAW.encode(), "luật.mp3")
    assert (await ingest.finished(store_id, file_id)).status == "completed"
    assert reader.reads == 0
    assert [hit.time_spans for hit in await chunks_of(ingest, database, store_id)] == [None]


async def test_without_a_reader_media_are_refused_as_unsupported(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> None:
    async with running_ingest(database, tenant, parser, embedder) as ingest:
        store_id = await ingest.store_id()
        record = await ingest.finished(store_id, await ingest.attach(store_id, wav(), "a.wav"))
        assert record.last_error is not None
        assert record.last_error["code"] == "unsupported_file"
        await ingest.assert_good_document_works(store_id)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DocumentError(NOT_INSTALLED, code="unsupported_file"), "unsupported_file"),
        (DocumentError("Nothing that is said was heard.", code="empty_file"), "invalid_file"),
        (DocumentError("The recording lasts longer than 4 hours."), "invalid_file"),
    ],
)
async def test_recording_that_cannot_be_read_fails_with_the_reason_and_the_next_works(
    ingest: Ingest, reader: SteeredReader, error: DocumentError, code: str
) -> None:
    reader.errors = [error]
    store_id = await ingest.store_id()
    record = await ingest.finished(store_id, await ingest.attach(store_id, wav()))
    assert (record.status, record.last_error) == ("failed", {"code": code, "message": error.message})
    assert (await ingest.finished(store_id, await ingest.attach(store_id, wav(mark=1)))).status == "completed"
    await ingest.assert_good_document_works(store_id)


async def test_failed_recording_is_tried_again_when_it_is_attached_again(ingest: Ingest, reader: SteeredReader) -> None:
    reader.errors = [DocumentError(NOT_INSTALLED, code="unsupported_file")]
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, wav())
    assert (await ingest.finished(store_id, file_id)).status == "failed"
    await ingest.documents.attach(store_id, file_id)  # a model was installed meanwhile
    ingest.worker.nudge()
    record = await ingest.finished(store_id, file_id)
    assert (record.status, record.last_error) == ("completed", None)


async def test_text_that_is_not_normal_fails_instead_of_shifting_its_times(ingest: Ingest, reader: SteeredReader) -> None:
    reader.media = spoken_text("Ho\u031b\u0323p đồng")
    store_id = await ingest.store_id()
    record = await ingest.finished(store_id, await ingest.attach(store_id, wav()))
    assert record.last_error is not None
    assert record.last_error["code"] == "server_error"


async def test_speech_service_that_restarts_is_waited_for(ingest: Ingest, reader: SteeredReader) -> None:
    reader.errors = [ModelUnavailableError("The speech service is not available now.")] * 2
    store_id = await ingest.store_id()
    record = await ingest.finished(store_id, await ingest.attach(store_id, wav()))
    assert (record.status, record.attempt) == ("completed", 1)


async def test_speech_service_gone_for_good_fails_the_recording_after_three_attempts(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder, reader: SteeredReader
) -> None:
    reader.errors = [ModelUnavailableError("The speech service is not available now.")] * 100
    options = {"media_reader": reader, "lease_s": 0.3, "poll_s": 0.05, "outage_patience_s": 0.1}
    async with running_ingest(database, tenant, parser, embedder, **options) as ingest:
        store_id = await ingest.store_id()
        record = await ingest.finished(store_id, await ingest.attach(store_id, wav()))
        assert record.last_error is not None
        assert (record.last_error["code"], record.attempt) == ("server_error", 3)


async def test_long_transcription_keeps_its_lease(ingest: Ingest, reader: SteeredReader) -> None:
    reader.gate.clear()
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, wav())
    await reader.entered.wait()
    await asyncio.sleep(1.5)  # more than two leases
    reader.gate.set()
    record = await ingest.finished(store_id, file_id)
    assert (record.status, record.attempt, reader.reads) == ("completed", 1, 1)


@pytest.mark.parametrize("how", ["cancel", "detach", "delete the file", "delete the store"])
async def test_giving_a_recording_up_stops_its_transcription(
    ingest: Ingest, tenant: str, reader: SteeredReader, how: str
) -> None:
    reader.gate.clear()
    store_id = await ingest.store_id()
    file_id = await ingest.attach(store_id, wav())
    await reader.entered.wait()
    match how:
        case "cancel":
            await ingest.documents.links.cancel(tenant, store_id, file_id)
        case "detach":
            await ingest.documents.links.detach(tenant, store_id, file_id)
        case "delete the file":
            await ingest.documents.files.delete(tenant, file_id)
        case _:
            await ingest.documents.stores.delete(tenant, store_id)
    await until(lambda: reader.active == 0)  # though the gate is still closed
    if how == "cancel":
        assert (await ingest.status(store_id, file_id)).status == "cancelled"
    else:
        with pytest.raises(NotFoundError):
            await ingest.status(store_id, file_id)
    reader.gate.set()
    other = await ingest.store_id()
    assert (await ingest.finished(other, await ingest.attach(other, wav(mark=1)))).status == "completed"


async def test_restart_in_the_middle_starts_over(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder, reader: SteeredReader
) -> None:
    reader.gate.clear()
    async with running_ingest(database, tenant, parser, embedder, media_reader=reader) as first:
        store_id = await first.store_id()
        file_id = await first.attach(store_id, wav())
        await reader.entered.wait()
    assert reader.active == 0
    reader.gate.set()
    async with running_ingest(database, tenant, parser, embedder, media_reader=reader) as second:
        record = await second.finished(store_id, file_id, timeout_s=5)
    assert (record.status, record.attempt, reader.reads) == ("completed", 1, 2)


async def test_documents_do_not_wait_for_recordings(ingest: Ingest, reader: SteeredReader) -> None:
    reader.gate.clear()
    store_id = await ingest.store_id()
    recordings = [await ingest.attach(store_id, wav(mark=number), "a.wav") for number in range(5)]
    await until(lambda: reader.active == 2)
    for _ in range(3):
        await ingest.assert_good_document_works(store_id)
    assert reader.active == 2
    reader.gate.set()
    assert [(await ingest.finished(store_id, file_id)).status for file_id in recordings] == ["completed"] * 5


async def test_same_recording_in_another_store_is_copied_with_its_times(
    ingest: Ingest, database: Database, reader: SteeredReader
) -> None:
    first, second = await ingest.store_id(), await ingest.store_id()
    await ingest.finished(first, await ingest.attach(first, wav(), "a.wav"))
    reader.media = spoken_text("nghe khác")
    assert (await ingest.finished(second, await ingest.attach(second, wav(), "b.wav"))).status == "completed"
    assert reader.reads == 1
    copies = [await chunks_of(ingest, database, store_id) for store_id in (first, second)]
    assert [(hit.text, hit.time_spans) for hit in copies[0]] == [(hit.text, hit.time_spans) for hit in copies[1]]
    assert all(hit.time_spans for hit in copies[1])


async def test_same_file_cut_otherwise_keeps_the_text_that_is_cited_already(
    ingest: Ingest, database: Database, tenant: str, reader: SteeredReader
) -> None:
    first, second = await ingest.store_id(), await ingest.store_id()
    file_id = await ingest.attach(first, wav())
    await ingest.finished(first, file_id)
    reader.media = spoken_text("một mô hình khác nghe khác")
    sizes = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 30}}
    await ingest.documents.links.attach(tenant, second, file_id, attributes={}, chunking_strategy=sizes)
    ingest.worker.nudge()
    assert (await ingest.finished(second, file_id)).status == "completed"
    assert reader.reads == 1
    assert await ingest.documents.files.get_text(tenant, file_id) == LECTURE.text
    for chunk in await chunks_of(ingest, database, second):
        said = [span for span in LECTURE.spans if chunk.start_char <= span.start_char < chunk.end_char]
        assert time_range(chunk.time_spans, chunk.start_char, chunk.end_char) == (said[0].start_s, said[-1].end_s)


async def test_reader_acts_for_the_tenant_of_the_file(ingest: Ingest, tenant: str, reader: SteeredReader) -> None:
    store_id = await ingest.store_id()
    await ingest.finished(store_id, await ingest.attach(store_id, wav()))
    assert reader.tenants == [tenant]


async def test_recording_that_was_uploaded_before_recordings_were_read_is_read(
    ingest: Ingest, database: Database, reader: SteeredReader
) -> None:
    store_id, file = await ingest.store_id(), await ingest.documents.file(wav(), "a.wav")
    async with database.connection() as connection:
        await connection.execute("UPDATE files SET is_media = false WHERE id = %s", (file.id,))
    await ingest.documents.attach(store_id, file.id)
    ingest.worker.nudge()
    assert (await ingest.finished(store_id, file.id)).status == "completed"
    assert reader.reads == 1


@dataclass
class VaryingReader(SteeredReader):
    """Reads every file differently; as a vision model does, which is asked twice, or two speech models."""

    texts: list[str] = field(default_factory=lambda: ["Một con mèo nằm trên ghế.", "Con mèo già ngủ trên một chiếc ghế gỗ cũ."])

    async def read(self, principal: Principal, data: bytes) -> MediaText:
        text = self.texts[self.reads]
        await super().read(principal, data)
        return MediaText(text, "image")


async def attach_cut(ingest: Ingest, store_id: str, file_id: str, max_tokens: int) -> None:
    sizes = {"type": "static", "static": {"max_chunk_size_tokens": max_tokens, "chunk_overlap_tokens": 0}}
    await ingest.documents.links.attach(ingest.documents.tenant, store_id, file_id, attributes={}, chunking_strategy=sizes)
    ingest.worker.nudge()


async def assert_chunks_are_cited_rightly(ingest: Ingest, database: Database, stores: Sequence[str], file_id: str) -> None:
    for store_id in stores:
        assert (await ingest.finished(store_id, file_id)).status == "completed"
    text = await ingest.documents.files.get_text(ingest.documents.tenant, file_id)
    for store_id in stores:
        chunks = await chunks_of(ingest, database, store_id)
        assert chunks
        assert all(chunk.text == text[chunk.start_char : chunk.end_char] for chunk in chunks)


@pytest.mark.parametrize("max_tokens", [100, 120])
async def test_image_that_two_stores_read_at_once_has_the_text_of_the_first(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder, max_tokens: int
) -> None:
    reader = VaryingReader(LECTURE)
    reader.gate.clear()
    async with running_ingest(database, tenant, parser, embedder, media_reader=reader) as ingest:
        stores = await ingest.store_id(), await ingest.store_id()
        file = await ingest.documents.file(b"\x89PNG\r\n\x1a\n" + bytes(100), "a.png")
        for store_id, tokens in zip(stores, (100, max_tokens), strict=True):
            await attach_cut(ingest, store_id, file.id, tokens)
        await until(lambda: reader.active == 2)
        reader.gate.set()
        await assert_chunks_are_cited_rightly(ingest, database, stores, file.id)
        assert reader.reads == 2  # it is not read a third time


async def test_chunks_of_the_same_image_uploaded_twice_are_not_put_onto_a_text_that_is_cited_already(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> None:
    reader, data = VaryingReader(LECTURE), b"\x89PNG\r\n\x1a\n" + bytes(100)
    async with running_ingest(database, tenant, parser, embedder, media_reader=reader) as ingest:
        first, second, third = [await ingest.store_id() for _ in range(3)]
        one, other = await ingest.documents.file(data, "a.png"), await ingest.documents.file(data, "b.png")
        await attach_cut(ingest, first, one.id, 100)
        await ingest.finished(first, one.id)
        await attach_cut(ingest, second, other.id, 120)  # cut otherwise, so it was read anew
        await ingest.finished(second, other.id)
        await attach_cut(ingest, third, other.id, 100)  # cut as the first one was, whose chunks are of another text
        await assert_chunks_are_cited_rightly(ingest, database, [second, third], other.id)
        await assert_chunks_are_cited_rightly(ingest, database, [first], one.id)
        assert reader.reads == 2


async def test_text_that_no_store_cites_any_more_is_replaced(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> None:
    reader, data = VaryingReader(LECTURE), b"\x89PNG\r\n\x1a\n" + bytes(100)
    async with running_ingest(database, tenant, parser, embedder, media_reader=reader) as ingest:
        first, second = await ingest.store_id(), await ingest.store_id()
        one, other = await ingest.documents.file(data, "a.png"), await ingest.documents.file(data, "b.png")
        await attach_cut(ingest, first, one.id, 100)
        await ingest.finished(first, one.id)
        await attach_cut(ingest, second, other.id, 120)
        await ingest.finished(second, other.id)
        await ingest.documents.links.detach(tenant, second, other.id)
        await attach_cut(ingest, second, other.id, 100)  # its chunks are copied from the first, so must be its text
        await assert_chunks_are_cited_rightly(ingest, database, [second], other.id)
        assert await ingest.documents.files.get_text(tenant, other.id) == reader.texts[0]
