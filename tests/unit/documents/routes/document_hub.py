"""The API over real tables, a real parser, a real retriever and a running ingest worker, for one tenant."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from openai import AsyncOpenAI, OpenAI

from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.settings import Settings
from aihub.documents.files import FileBatches, Files
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.search.bm25 import LexicalIndexCache
from aihub.documents.search.retriever import Retriever
from aihub.documents.service import MediaReader
from aihub.documents.tables.chunks import ChunkTable
from aihub.documents.tables.file_batches import FileBatchTable
from aihub.documents.vector_stores import VectorStores
from aihub.http.services import get_principal
from tests.unit.documents.ingest_parts import Ingest, SteeredEmbedder, running_ingest
from tests.unit.http.services import Parts

LABOUR = "Người lao động được nghỉ phép mười hai ngày mỗi năm. Tiền lương được trả hằng tháng."
RENT = "Bên thuê nhà phải trả tiền đặt cọc. Hợp đồng thuê có thời hạn một năm."


@dataclass
class DocumentHub:
    """`app` acts for `ingest.documents.tenant`; `http` calls it in this process."""

    app: FastAPI
    ingest: Ingest
    http: httpx.AsyncClient

    def act_for(self, tenant: str, *, vector_stores: frozenset[str] | None = None) -> None:
        async def principal() -> Principal:
            return Principal(tenant, vector_stores=vector_stores)

        self.app.dependency_overrides[get_principal] = principal

    async def created(self, **body: Any) -> dict[str, Any]:
        answer = await self.http.post("/v1/vector_stores", json=body)
        assert answer.status_code == 200, answer.text
        store: dict[str, Any] = answer.json()
        return store

    async def uploaded(self, text: str = LABOUR, filename: str = "luật.txt") -> str:
        answer = await self.http.post("/v1/files", files={"file": (filename, text.encode())}, data={"purpose": "assistants"})
        return str(answer.json()["id"])

    async def indexed(self, store_id: str, text: str = LABOUR, **body: Any) -> str:
        file_id = await self.uploaded(text)
        answer = await self.http.post(f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id} | body)
        assert answer.status_code == 200, answer.text
        assert (await self.ingest.finished(store_id, file_id)).status == "completed"
        return file_id

    async def search(self, store_id: str, query: Any, **body: Any) -> list[dict[str, Any]]:
        answer = await self.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": query} | body)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    async def assert_good_search(self) -> None:
        store_id = (await self.created())["id"]
        file_id = await self.indexed(store_id)
        assert [hit["file_id"] for hit in await self.search(store_id, "nghỉ phép")] == [file_id]


@asynccontextmanager
async def document_hub(
    app: FastAPI,
    database: Database,
    tenant: str,
    parser: DocumentParser,
    embedder: SteeredEmbedder,
    settings: Settings | None = None,
    *,
    media_reader: MediaReader | None = None,
) -> AsyncIterator[DocumentHub]:
    """Exchange the services of `app`, which takes long to build, for the time of one test."""
    async with running_ingest(database, tenant, parser, embedder, media_reader=media_reader) as ingest:
        settings = settings or Settings()
        documents, chunks = ingest.documents, ChunkTable(database)
        app.state.services = replace(
            Parts(settings=settings).services(),
            embedder=embedder,
            files=Files(documents.files, max_bytes=settings.max_upload_bytes),
            vector_stores=VectorStores(
                files=documents.files,
                stores=documents.stores,
                store_files=documents.links,
                retriever=Retriever(chunks, LexicalIndexCache(chunks), embedder),
                embedder=embedder,
                nudge=ingest.worker.nudge,
            ),
            file_batches=FileBatches(
                batches=FileBatchTable(database), stores=documents.stores, embedder=embedder, nudge=ingest.worker.nudge
            ),
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            hub = DocumentHub(app, ingest, http)
            hub.act_for(tenant)
            yield hub
    app.dependency_overrides.clear()


@dataclass(frozen=True)
class Clients:
    """The official clients; call the blocking one in a thread."""

    sync: OpenAI
    asynchronous: AsyncOpenAI


@asynccontextmanager
async def official_clients(app: FastAPI) -> AsyncIterator[Clients]:
    """Serve the application by uvicorn on a free port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    try:
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as asynchronous:
            with OpenAI(base_url=url, api_key="none", max_retries=0) as sync:
                yield Clients(sync, asynchronous)
    finally:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await task
