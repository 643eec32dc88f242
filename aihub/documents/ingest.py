"""From an attached file to searchable chunks: claim, read, parse or transcribe, embed, complete.

The queue is the table of attached files itself. A worker claims a record under a lease and renews it while it works; when
the worker dies, the lease runs out and another one starts over. Nothing of a document is visible before the one
transaction that completes it, so a document is absent or complete.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar

from aihub.core.concurrency import raise_if_cancelled
from aihub.core.errors import ConflictError, HubError, InvalidRequestError, NotFoundError
from aihub.core.metrics import Metrics
from aihub.core.principal import Principal
from aihub.documents.chunk_vectors import ChunkVectors
from aihub.documents.ingest_bill import billed
from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.formats.media import begins_as_media
from aihub.documents.parsing.options import ChunkingOptions, ParsedDocument
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.serializers import require_same_model
from aihub.documents.service import MediaReader
from aihub.documents.tables.completion import CitedTextError
from aihub.documents.tables.files import FileTable
from aihub.documents.tables.records import ChunkRow, VectorStoreFileRecord
from aihub.documents.tables.vector_store_files import VectorStoreFileTable
from aihub.documents.tables.vector_stores import VectorStoreTable
from aihub.documents.time_spans import SpanTable
from aihub.embeddings.service import Embedder, EmbedderInfo, Embeddings
from aihub.usage.service import UsageSink

logger = logging.getLogger(__name__)

T = TypeVar("T")
Outcome = Literal["completed", "failed", "lost", "postponed"]

MAX_PAUSE_S = 15.0
SWEEP_S = 60.0


class IngestWorker:
    """Indexes attached files in the background until its `run` is cancelled.

    Args:
        worker_id: Unique per process; the lease carries it.
        media_reader: Reads recordings and images; without one they are refused as other binary files are.
        concurrency: Documents worked on at a time.
        media_concurrency: Recordings and images worked on at a time beside them, as they may take long.
        lease_s: How long a dead worker keeps its documents from others.
        poll_s: Longest time until a file attached by another process is noticed.
        outage_patience_s: How long one attempt waits for a missing embedder, speech service or database. After that the document
            stays `in_progress` for the next attempt; storage fails it when all attempts are used up.

    Attributes:
        usage: Gets a record of each attempt at a document; of none when None.
    """

    def __init__(
        self,
        *,
        files: FileTable,
        stores: VectorStoreTable,
        store_files: VectorStoreFileTable,
        parser: DocumentParser,
        embedder: Embedder,
        metrics: Metrics,
        worker_id: str,
        media_reader: MediaReader | None = None,
        concurrency: int = 2,
        media_concurrency: int = 2,
        lease_s: float = 30.0,
        poll_s: float = 5.0,
        outage_patience_s: float = 600.0,
    ) -> None:
        self._files = files
        self._stores = stores
        self._store_files = store_files
        self._parser = parser
        self._media_reader = media_reader
        self.usage: UsageSink | None = None
        self._embedder = embedder
        self._metrics = metrics
        self._worker_id = worker_id
        self._concurrency = concurrency
        self._media_concurrency = media_concurrency
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._outage_patience_s = outage_patience_s
        self._wake = asyncio.Event()

    def nudge(self) -> None:
        """Look for work now instead of at the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled; documents in hand are then given back for another worker."""
        async with asyncio.TaskGroup() as slots:
            for _ in range(self._concurrency):
                slots.create_task(self._serve_slot(media=False))
            for _ in range(self._media_concurrency):
                slots.create_task(self._serve_slot(media=True))
            slots.create_task(self._sweep())

    async def _serve_slot(self, *, media: bool) -> None:
        failures = 0
        while True:
            raise_if_cancelled()
            try:
                record = await self._store_files.claim(self._lease_s, self._worker_id, media=media)
            except HubError as error:
                failures += 1
                logger.warning("Ingest waits for PostgreSQL: %s", error.message)
                await asyncio.sleep(_pause_s(failures))
                continue
            failures = 0
            if record is None:
                await self._wait_for_work()
                continue
            self._wake.set()  # where one file waits there may be more for the other slots
            await self._work_on(record)

    async def _wait_for_work(self) -> None:
        raise_if_cancelled()
        try:
            async with asyncio.timeout(self._poll_s):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    async def _work_on(self, record: VectorStoreFileRecord) -> None:
        """Index one document while renewing its lease; stop at once when the claim is lost."""
        work = asyncio.create_task(billed(self._index(record), record.tenant_id, self.usage))
        lease = asyncio.create_task(self._hold_lease(record))
        try:
            await asyncio.wait({work, lease}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                lease.result()
            self._metrics.ingested_files.labels(status=work.result() if work.done() else "lost").inc()
        except asyncio.CancelledError:
            await _stopped(work)
            with suppress(HubError):  # then the lease runs out by itself
                await self._store_files.release(record)
            raise
        finally:
            await _stopped(work, lease)

    async def _hold_lease(self, record: VectorStoreFileRecord) -> None:
        """Return when the claim is lost: cancelled, detached, deleted, or taken over after an outage."""
        while True:
            raise_if_cancelled()
            await asyncio.sleep(self._lease_s / 3)
            try:
                if not await self._store_files.heartbeat(record, self._lease_s):
                    return
            except HubError as error:
                logger.warning("The lease of file %s could not be renewed: %s", record.file_id, error.message)

    async def _sweep(self) -> None:
        """Delete files whose time has passed."""
        while True:
            raise_if_cancelled()
            try:
                await self._files.delete_expired()
            except HubError as error:
                logger.warning("Expired files are deleted later: %s", error.message)
            await asyncio.sleep(SWEEP_S)

    async def _index(self, record: VectorStoreFileRecord) -> Outcome:
        try:
            while True:
                try:
                    return await self._complete(record)
                except CitedTextError as error:
                    # Two stores had it read at a time, and the other one came first; its text is there now.
                    logger.info("File %s is indexed by the text of another store: %s", record.file_id, error.message)
        except DocumentError as error:
            code = "unsupported_file" if error.code == "unsupported_file" else "invalid_file"
            return await self._fail(record, code, error.message)
        except NotFoundError:
            return "lost"
        except ConflictError as error:
            return await self._fail(record, "server_error", error.message)
        except InvalidRequestError as error:
            return await self._fail(record, "invalid_file", error.message)
        except Exception as error:
            if isinstance(error, HubError) and error.retryable:
                logger.warning("File %s waits for its next attempt: %s", record.file_id, error.message)
                return "postponed"
            logger.exception("File %s could not be indexed", record.file_id)
            return await self._fail(
                record, "server_error", "Indexing failed inside the hub; its log tells why. Attach the file again."
            )

    async def _complete(self, record: VectorStoreFileRecord) -> Outcome:
        if await self._outlast(lambda: self._store_files.complete_from_duplicate(record)):
            return "completed"
        store = await self._outlast(lambda: self._stores.get(record.tenant_id, record.store_id))
        model_info = await self._outlast(self._embedder.model_info)
        require_same_model(store, model_info)
        document, spans = await self._parse(record)
        rows = await self._embed(document, model_info, spans)
        if not await self._outlast(lambda: self._store_files.complete(record, document.text, document.format, rows)):
            return "lost"
        self._metrics.ingested_chunks.inc(len(rows))
        return "completed"

    async def _parse(self, record: VectorStoreFileRecord) -> tuple[ParsedDocument, SpanTable]:
        data = await self._outlast(lambda: self._read(record))
        reader = self._media_reader if begins_as_media(data) else None
        if reader is None:
            document = await self._parser.parse(record.filename, data, _chunking(record), encoding=record.text_encoding)
            return document, SpanTable(())
        # The text that another store cites must stay, though the same recording might be heard differently today.
        media = await self._outlast(lambda: self._store_files.media_text(record))
        if media is None:
            media = await self._outlast(lambda: reader.read(Principal(record.tenant_id), data))
        text = media.text.encode()
        document = await self._parser.parse(record.filename, text, _chunking(record), text_format=media.kind)
        return document, SpanTable(media.spans)

    async def _read(self, record: VectorStoreFileRecord) -> bytes:
        return b"".join([part async for part in self._files.content(record.tenant_id, record.file_id)])

    async def _embed(self, document: ParsedDocument, model_info: EmbedderInfo, spans: SpanTable) -> list[ChunkRow]:
        async def embed(texts: Sequence[str]) -> Embeddings:
            return await self._outlast(lambda: self._embedder.embed(texts))

        texts = [chunk.text for chunk in document.chunks]
        vectors = await ChunkVectors(embed, model_info).of(texts, [chunk.token_count for chunk in document.chunks])
        return [
            ChunkRow(
                ordinal=chunk.ordinal,
                text=chunk.text,
                start_char=chunk.start_char,
                end_char=chunk.end_char,
                token_count=chunk.token_count,
                language=chunk.language,
                term_ids=chunk.term_ids,
                term_freqs=chunk.term_freqs,
                term_total=chunk.term_total,
                embedding=vector,
                time_spans=spans.pack(chunk.start_char, chunk.end_char),
            )
            for chunk, vector in zip(document.chunks, vectors, strict=True)
        ]

    async def _fail(self, record: VectorStoreFileRecord, code: str, message: str) -> Outcome:
        try:
            recorded = await self._outlast(lambda: self._store_files.fail(record, code, message))
        except HubError as error:
            logger.warning("The failure of file %s could not be recorded: %s", record.file_id, error.message)
            return "postponed"
        return "failed" if recorded else "lost"

    async def _outlast(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat `call` while a part it needs is away, as long as the patience lasts."""
        deadline = asyncio.get_running_loop().time() + self._outage_patience_s
        failures = 0
        while True:
            try:
                return await call()
            except HubError as error:
                failures += 1
                pause_s = _pause_s(failures)
                if not error.retryable or asyncio.get_running_loop().time() + pause_s > deadline:
                    raise
                logger.warning("Ingest tries again in %.1f s: %s", pause_s, error.message)
            await asyncio.sleep(pause_s)


def _chunking(record: VectorStoreFileRecord) -> ChunkingOptions:
    sizes = record.chunking_strategy["static"]
    return ChunkingOptions(max_tokens=sizes["max_chunk_size_tokens"], overlap_tokens=sizes["chunk_overlap_tokens"])


async def _stopped(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _pause_s(failures: int) -> float:
    """Exponential pause with jitter, so that slots and workers do not return in step."""
    longest: float = min(MAX_PAUSE_S, 0.25 * 2 ** min(failures, 8))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not for secrets
