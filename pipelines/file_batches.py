"""Batches of files behind OpenAI's API."""

from collections.abc import Callable
from typing import Literal

from aihub.engines.base import Embedder
from aihub.errors import NotFoundError
from aihub.schemas.common import Page
from aihub.schemas.vector_stores import FileBatchCreate, FileBatchObject, FileStatus, VectorStoreFileObject
from aihub.security.principal import Principal
from aihub.storage.file_batches import FileBatchTable, NewFile
from aihub.storage.records import VectorStoreRecord
from aihub.storage.vector_stores import VectorStoreTable
from pipelines.documents import known_id
from pipelines.records import file_batch_object, page, store_file_object
from pipelines.store_models import chunking_for, require_same_model

Order = Literal["asc", "desc"]


class FileBatches:
    """Implements `aihub.api.services.FileBatchService` over the tables.

    Args:
        nudge: Tells the ingest worker that files were attached (`IngestWorker.nudge`).
    """

    def __init__(
        self, *, batches: FileBatchTable, stores: VectorStoreTable, embedder: Embedder, nudge: Callable[[], None]
    ) -> None:
        self._batches = batches
        self._stores = stores
        self._embedder = embedder
        self._nudge = nudge

    async def create(self, principal: Principal, store_id: str, request: FileBatchCreate) -> FileBatchObject:
        """Attach all files and start indexing them; files that are attached already join as they are.

        Raises:
            NotFoundError: No such store, or one of the files does not exist; nothing is attached then.
            ConflictError: The store was built with another embedding model than the active one.
        """
        store = await self._store(principal, store_id)
        card = await self._embedder.card()
        require_same_model(store, card)
        files = [
            NewFile(file.file_id, file.attributes or {}, chunking_for(file.chunking_strategy, card))
            for file in request.each_file()
        ]
        record = await self._batches.create(principal.tenant_id, store_id, files)
        await self._stores.touch(principal.tenant_id, [store_id])
        self._nudge()
        return file_batch_object(record)

    async def get(self, principal: Principal, store_id: str, batch_id: str) -> FileBatchObject:
        await self._store(principal, store_id)
        return file_batch_object(await self._batches.get(principal.tenant_id, store_id, known_id(batch_id, "file batch")))

    async def cancel(self, principal: Principal, store_id: str, batch_id: str) -> FileBatchObject:
        """Stop indexing the files that wait or are being read; those indexed already stay."""
        await self._store(principal, store_id)
        return file_batch_object(await self._batches.cancel(principal.tenant_id, store_id, known_id(batch_id, "file batch")))

    async def list_files(
        self,
        principal: Principal,
        store_id: str,
        batch_id: str,
        *,
        limit: int,
        after: str | None,
        before: str | None,
        order: Order,
        status: FileStatus | None,
    ) -> Page[VectorStoreFileObject]:
        await self._store(principal, store_id)
        rows, has_more = await self._batches.list_files(
            principal.tenant_id,
            store_id,
            known_id(batch_id, "file batch"),
            limit=limit,
            after=after,
            before=before,
            order=order,
            status=status,
        )
        return page([store_file_object(row) for row in rows], has_more)

    async def _store(self, principal: Principal, store_id: str) -> VectorStoreRecord:
        store = await self._stores.get(principal.tenant_id, known_id(store_id, "vector store"))
        if store.status == "expired":
            raise NotFoundError(f"Vector store {store_id} has expired. Create a new one and attach the files again.")
        return store
