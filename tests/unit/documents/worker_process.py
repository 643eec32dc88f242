"""An ingest worker in a process of its own, to be killed: `worker_process.py DSN embedding|writing`.

With `embedding` its embedder never answers. It prints `embedding` when the first chunk gets there, and ends with its parent.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

from aihub.core.metrics import Metrics
from aihub.core.postgres import Database
from aihub.documents.ingest import IngestWorker
from aihub.documents.parsing.parser import DocumentParser
from aihub.documents.tables.files import FileTable
from aihub.documents.tables.vector_store_files import VectorStoreFileTable
from aihub.documents.tables.vector_stores import VectorStoreTable
from aihub.embeddings.service import Embeddings
from tests.unit.documents.ingest_parts import SteeredEmbedder, minilm_tokenizer


class AnnouncingEmbedder(SteeredEmbedder):
    async def embed(self, inputs: Sequence[Any]) -> Embeddings:
        print("embedding", flush=True)  # noqa: T201  # read by the test
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
