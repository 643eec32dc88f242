"""Uploaded files, and batches of them in vector stores, behind OpenAI's API."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Literal

from aihub.core.errors import NotFoundError
from aihub.core.principal import Principal
from aihub.core.schemas import DeletedObject, Page
from aihub.documents.schemas import (
    FileBatchCreate,
    FileBatchObject,
    FileObject,
    FileStatus,
    VectorStoreFileObject,
)
from aihub.documents.serializers import (
    chunking_for,
    file_batch_object,
    file_object,
    page,
    require_same_model,
    store_file_object,
)
from aihub.documents.tables.file_batches import FileBatchTable, NewFile
from aihub.documents.tables.files import FileTable
from aihub.documents.tables.records import VectorStoreRecord
from aihub.documents.tables.vector_stores import VectorStoreTable
from aihub.embeddings.service import Embedder

Order = Literal["asc", "desc"]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Files:
    """Implements `aihub.documents.service.FileService` over the file table.

    Args:
        max_bytes: Largest file.
    """

    def __init__(self, files: FileTable, *, max_bytes: int) -> None:
        self._files = files
        self._max_bytes = max_bytes

    async def upload(
        self,
        principal: Principal,
        *,
        filename: str,
        purpose: str,
        content: AsyncIterator[bytes],
        expires_after_s: int | None = None,
        text_encoding: str | None = None,
    ) -> FileObject:
        record = await self._files.create(
            principal.tenant_id,
            filename,
            purpose,
            content,
            self._max_bytes,
            expires_after_s=expires_after_s,
            text_encoding=text_encoding,
        )
        return file_object(record)

    async def list(
        self, principal: Principal, *, limit: int, after: str | None, order: Order, purpose: str | None
    ) -> Page[FileObject]:
        rows, has_more = await self._files.list(principal.tenant_id, limit=limit, after=after, order=order, purpose=purpose)
        return page([file_object(row) for row in rows], has_more)

    async def get(self, principal: Principal, file_id: str) -> FileObject:
        return file_object(await self._files.get(principal.tenant_id, known_id(file_id, "file")))

    async def content(self, principal: Principal, file_id: str) -> tuple[FileObject, AsyncIterator[bytes]]:
        """Return the file and its bytes; what can fail has failed before the first piece is sent."""
        file = await self.get(principal, file_id)
        pieces = self._files.content(principal.tenant_id, file_id)
        first = await anext(pieces, b"")
        return file, _chain(first, pieces)

    async def delete(self, principal: Principal, file_id: str) -> DeletedObject:
        await self._files.delete(principal.tenant_id, known_id(file_id, "file"))
        return DeletedObject(id=file_id, object="file")


def known_id(value: str, kind: str) -> str:
    """Return an id that could exist; anything else (quotes, NUL, a path) is not found without asking the database."""
    if not _ID.fullmatch(value):
        raise NotFoundError(f"No such {kind}.")
    return value


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    async for piece in rest:
        yield piece


class FileBatches:
    """Implements `aihub.documents.service.FileBatchService` over the tables.

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
        model_info = await self._embedder.model_info()
        require_same_model(store, model_info)
        files = [
            NewFile(file.file_id, file.attributes or {}, chunking_for(file.chunking_strategy, model_info))
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
        principal.require_vector_stores([store_id], "store_id")
        store = await self._stores.get(principal.tenant_id, known_id(store_id, "vector store"))
        if store.status == "expired":
            raise NotFoundError(f"Vector store {store_id} has expired. Create a new one and attach the files again.")
        return store
