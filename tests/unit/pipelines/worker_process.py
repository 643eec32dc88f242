"""An ingest worker in a process of its own, to be killed: `worker_process.py DSN embedding|writing`.

With `embedding` its embedder never answers. It prints `embedding` when the first chunk gets there, and ends with its parent.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from aihub.documents.parse import DocumentParser
from aihub.engines.base import Embeddings
from aihub.storage.files import FileTable
from aihub.storage.postgres import Database
from aihub.storage.vector_stores import VectorStoreFileTable, VectorStoreTable
from aihub.telemetry.metrics import Metrics
from pipelines.ingest import IngestWorker
from tests.unit.pipelines.ingest_parts import SteeredEmbedder, minilm_tokenizer


class AnnouncingEmbedder(SteeredEmbedder):
    async def embed(self, inputs: Sequence[Any]) -> Embeddings:
        print("embedding", flush=True)  # noqa: T201
        return await super().embed(inputs)


async def main(dsn: str, moment: str) -> None:
    database = Database(dsn, timeout_s=30.0)
    await database.open()
    parser = DocumentParser(minilm_tokenizer(), processes=1)
    await parser.start()
    embedder = AnnouncingEmbedder()
    if moment == "embedding":
        embedder.gate.clear()
    worker = IngestWorker(
        files=FileTable(database),
        stores=VectorStoreTable(database),
        store_files=VectorStoreFileTable(database),
        parser=parser,
        embedder=embedder,
        metrics=Metrics(),
        worker_id="to-be-killed",
        lease_s=1.5,
    )
    run = asyncio.create_task(worker.run())
    await asyncio.to_thread(sys.stdin.read)
    run.cancel()


asyncio.run(main(*sys.argv[1:]))
