"""The document side of the hub in one process: real PostgreSQL, parser, embedder, ingest worker and retriever, no Ray."""

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from aihub.core.embedded.stores import EmbeddedStores
from aihub.core.metrics import Metrics
from aihub.core.migrate import upgrade
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.documents.files import Files
from aihub.documents.ingest import IngestWorker
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.schemas import StaticChunking, VectorStoreCreate, VectorStoreFileCreate
from aihub.documents.search.bm25 import LexicalIndexCache
from aihub.documents.search.retriever import Retriever
from aihub.documents.service import FileService, VectorStoreService
from aihub.documents.tables.chunks import ChunkTable
from aihub.documents.tables.files import FileTable
from aihub.documents.tables.records import VectorStoreRecord
from aihub.documents.tables.vector_store_files import VectorStoreFileTable
from aihub.documents.tables.vector_stores import VectorStoreTable
from aihub.documents.vector_stores import VectorStores
from aihub.embeddings.embedder import SentenceEmbedder
from aihub.models.store.default_models import prepare_embedding_model, select_embedding_model
from benchmarks.cached_embedder import CachedEmbedder


@dataclass
class DocumentHub:
    """What a benchmark needs of the hub's document side."""

    files: FileService
    vector_stores: VectorStoreService
    stores: VectorStoreTable
    chunks: ChunkTable
    database: Database
    embedder: CachedEmbedder
    retriever: Retriever
    principal: Principal

    async def ingest(
        self, name: str, documents: Iterable[tuple[str, str]], chunking: StaticChunking | None = None
    ) -> VectorStoreRecord:
        """Upload and index (document id, text) pairs as the API does; return their store. The file name is the id."""
        created = await self.vector_stores.create(self.principal, VectorStoreCreate(name=name))
        for document_id, text in documents:
            file = await self.files.upload(
                self.principal, filename=f"{document_id}.txt", purpose="assistants", content=_once(text.encode())
            )
            await self.vector_stores.attach_file(
                self.principal, created.id, VectorStoreFileCreate(file_id=file.id, chunking_strategy=chunking)
            )
        with tqdm(desc=f"indexing {name}", unit="document") as bar:
            while True:
                store = await self.stores.get(self.principal.tenant_id, created.id)
                bar.total = store.file_counts.total
                bar.update(store.file_counts.completed - bar.n)
                if store.file_counts.failed:
                    raise SystemExit(f"{store.file_counts.failed} documents of {name} failed")
                if store.file_counts.completed == store.file_counts.total:
                    return store
                await asyncio.sleep(0.5)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


@asynccontextmanager
async def document_hub(*, works: bool = True) -> AsyncIterator[DocumentHub]:
    """Run the parts in a state folder that is thrown away; without an ingest worker unless it `works`.

    Vectors are remembered in `bench` of the real state folder.
    """
    settings = Settings()
    profile = load_profile(settings.profile)
    choice = select_embedding_model(settings, profile)
    folder = prepare_embedding_model(choice.source, settings, backend=profile.embeddings.backend)
    with tempfile.TemporaryDirectory(prefix="aihub-bench-") as home:
        stores = EmbeddedStores(Path(home))
        url = stores.start().database_url
        upgrade(url)
        database = Database(url)
        model = SentenceEmbedder(folder, choice.model_id, device=profile.device, languages=profile.embeddings.languages)
        embedder = CachedEmbedder(model, folder, settings.home_path / "bench")
        parser = DocumentParser(str(folder / "tokenizer.json"), profile.hub.parser_processes)
        await asyncio.gather(database.open(), model.start(), parser.start())
        try:
            async with _wired(settings, database, embedder, parser, works=works) as hub:
                yield hub
        finally:
            await asyncio.gather(parser.close(), model.close(), database.close())
            stores.stop()


@asynccontextmanager
async def _wired(
    settings: Settings, database: Database, embedder: CachedEmbedder, parser: DocumentParser, *, works: bool
) -> AsyncIterator[DocumentHub]:
    files, tables, store_files = FileTable(database), VectorStoreTable(database), VectorStoreFileTable(database)
    chunks = ChunkTable(database)
    retriever = Retriever(chunks, LexicalIndexCache(chunks), embedder)
    worker = IngestWorker(
        files=files,
        stores=tables,
        store_files=store_files,
        parser=parser,
        embedder=embedder,
        metrics=Metrics(),
        worker_id=uuid.uuid4().hex,
        concurrency=4,
    )
    tasks = [asyncio.create_task(worker.run())] if works else []
    try:
        yield DocumentHub(
            files=Files(files, max_bytes=settings.max_upload_bytes),
            vector_stores=VectorStores(
                files=files, stores=tables, store_files=store_files, retriever=retriever, embedder=embedder, nudge=worker.nudge
            ),
            stores=tables,
            chunks=chunks,
            database=database,
            embedder=embedder,
            retriever=retriever,
            principal=Principal(),
        )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
