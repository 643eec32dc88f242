"""Vector stores behind OpenAI's API."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from aihub.core.errors import ConflictError, HubError, InvalidRequestError, NotFoundError, PermissionDeniedError
from aihub.core.filters import filter_tree
from aihub.core.principal import Principal
from aihub.core.schemas import DeletedObject, Page
from aihub.documents.files import Order, known_id
from aihub.documents.schemas import (
    FileContentPage,
    FileStatus,
    SearchRequest,
    SearchResults,
    TextContent,
    VectorStoreCreate,
    VectorStoreFileCreate,
    VectorStoreFileObject,
    VectorStoreFileUpdate,
    VectorStoreObject,
    VectorStoreUpdate,
)
from aihub.documents.search.retriever import Retriever, ScoredChunk
from aihub.documents.serializers import chunking_for, page, require_same_model, search_result, store_file_object, store_object
from aihub.documents.tables.files import FileTable
from aihub.documents.tables.records import StoreChanges, VectorStoreRecord
from aihub.documents.tables.vector_store_files import VectorStoreFileTable
from aihub.documents.tables.vector_stores import VectorStoreTable
from aihub.embeddings.service import Embedder


class VectorStores:
    """Implements `aihub.documents.service.VectorStoreService` over the tables and the retriever.

    Args:
        nudge: Tells the ingest worker that a file was attached (`IngestWorker.nudge`).
    """

    def __init__(
        self,
        *,
        files: FileTable,
        stores: VectorStoreTable,
        store_files: VectorStoreFileTable,
        retriever: Retriever,
        embedder: Embedder,
        nudge: Callable[[], None],
    ) -> None:
        self._files = files
        self._stores = stores
        self._store_files = store_files
        self._retriever = retriever
        self._embedder = embedder
        self._nudge = nudge

    async def create(self, principal: Principal, request: VectorStoreCreate) -> VectorStoreObject:
        """Create a store for the active embedding model and attach `file_ids` to it.

        Raises:
            PermissionDeniedError: The key is for certain stores, so it could not use the new one.
            NotFoundError: One of the files does not exist; no store is left behind then.
        """
        if principal.vector_stores is not None:
            raise PermissionDeniedError(
                "This API key is for certain vector stores and can create none. Use a key without that limit.",
                code="vector_store_not_allowed",
            )
        tenant = principal.tenant_id
        file_ids = list(dict.fromkeys(request.file_ids or []))
        for file_id in file_ids:
            await self._files.get(tenant, file_id)
        model_info = await self._embedder.model_info()
        chunking = chunking_for(request.chunking_strategy, model_info)
        store = await self._stores.create(
            tenant,
            name=request.name,
            description=request.description,
            metadata=request.metadata or {},
            embedding_model=model_info.model_id,
            dimensions=model_info.dimensions,
            expires_after=None if request.expires_after is None else request.expires_after.model_dump(),
        )
        try:
            for file_id in file_ids:
                await self._store_files.attach(tenant, store.id, file_id, attributes={}, chunking_strategy=chunking)
        except HubError:
            with suppress(HubError):
                await self._stores.delete(tenant, store.id)
            raise
        if file_ids:
            self._nudge()
            store = await self._stores.get(tenant, store.id)
        return store_object(store)

    async def list(
        self, principal: Principal, *, limit: int, after: str | None, before: str | None, order: Order
    ) -> Page[VectorStoreObject]:
        rows, has_more = await self._stores.list(
            principal.tenant_id, limit=limit, after=after, before=before, order=order, only=principal.vector_stores
        )
        return page([store_object(row) for row in rows], has_more)

    async def get(self, principal: Principal, store_id: str) -> VectorStoreObject:
        return store_object(await self._store(principal, store_id))

    async def update(self, principal: Principal, store_id: str, request: VectorStoreUpdate) -> VectorStoreObject:
        await self._store(principal, store_id)
        changes: StoreChanges = {}
        if "name" in request.model_fields_set:
            changes["name"] = request.name
        if "metadata" in request.model_fields_set:
            changes["metadata"] = request.metadata
        if "expires_after" in request.model_fields_set:
            changes["expires_after"] = None if request.expires_after is None else request.expires_after.model_dump()
        return store_object(await self._stores.update(principal.tenant_id, store_id, changes))

    async def delete(self, principal: Principal, store_id: str) -> DeletedObject:
        """Delete the store, an expired one too."""
        principal.require_vector_stores([store_id], "store_id")
        await self._stores.delete(principal.tenant_id, known_id(store_id, "vector store"))
        return DeletedObject(id=store_id, object="vector_store.deleted")

    async def attach_file(self, principal: Principal, store_id: str, request: VectorStoreFileCreate) -> VectorStoreFileObject:
        """Attach a file and start indexing it; attached already, it is returned as it is.

        Raises:
            NotFoundError: No such store or file.
            ConflictError: The store was built with another embedding model than the active one.
        """
        store = await self._store(principal, store_id)
        model_info = await self._embedder.model_info()
        require_same_model(store, model_info)
        record = await self._store_files.attach(
            principal.tenant_id,
            store_id,
            request.file_id,
            attributes=request.attributes or {},
            chunking_strategy=chunking_for(request.chunking_strategy, model_info),
        )
        await self._stores.touch(principal.tenant_id, [store_id])
        self._nudge()
        return store_file_object(record)

    async def list_files(
        self,
        principal: Principal,
        store_id: str,
        *,
        limit: int,
        after: str | None,
        before: str | None,
        order: Order,
        status: FileStatus | None,
    ) -> Page[VectorStoreFileObject]:
        await self._store(principal, store_id)
        rows, has_more = await self._store_files.list(
            principal.tenant_id, store_id, limit=limit, after=after, before=before, order=order, status=status
        )
        return page([store_file_object(row) for row in rows], has_more)

    async def get_file(self, principal: Principal, store_id: str, file_id: str) -> VectorStoreFileObject:
        await self._store(principal, store_id)
        return store_file_object(await self._store_files.get(principal.tenant_id, store_id, known_id(file_id, "file")))

    async def update_file(
        self, principal: Principal, store_id: str, file_id: str, request: VectorStoreFileUpdate
    ) -> VectorStoreFileObject:
        await self._store(principal, store_id)
        record = await self._store_files.update_attributes(
            principal.tenant_id, store_id, known_id(file_id, "file"), request.attributes or {}
        )
        return store_file_object(record)

    async def detach_file(self, principal: Principal, store_id: str, file_id: str) -> DeletedObject:
        await self._store(principal, store_id)
        await self._store_files.detach(principal.tenant_id, store_id, known_id(file_id, "file"))
        return DeletedObject(id=file_id, object="vector_store.file.deleted")

    async def file_content(self, principal: Principal, store_id: str, file_id: str) -> FileContentPage:
        """Return the text the file was parsed to.

        Raises:
            ConflictError: The file is not indexed (yet).
        """
        file = await self.get_file(principal, store_id, file_id)
        if file.status != "completed":
            raise ConflictError(f"File {file_id} has no text yet: its status is {file.status}. Wait until it is completed.")
        return FileContentPage(data=[TextContent(text=await self._files.get_text(principal.tenant_id, file_id))])

    async def search(self, principal: Principal, store_id: str, request: SearchRequest) -> SearchResults:
        """Return the best chunks; several queries are searched one by one and each chunk keeps its best score.

        Raises:
            ConflictError: The store was built with another embedding model, and `mode` asks for vectors.
        """
        found = await self.find_chunks(principal, store_id, request)
        return SearchResults(search_query=request.queries, data=[search_result(chunk) for chunk in found])

    async def find_chunks(self, principal: Principal, store_id: str, request: SearchRequest) -> Sequence[ScoredChunk]:
        """Return what `search` answers with, as it is found; raises as `search`."""
        store = await self._store(principal, store_id)
        if request.mode != "text":
            require_same_model(store, await self._embedder.model_info())
        await self._stores.touch(principal.tenant_id, [store_id])
        best: dict[int, ScoredChunk] = {}
        for query in request.queries:
            for chunk in await self._find(principal, store, query, request):
                known = best.get(chunk.hit.chunk_id)
                if known is None or chunk.score > known.score:
                    best[chunk.hit.chunk_id] = chunk
        threshold = 0.0 if request.ranking_options is None else request.ranking_options.score_threshold or 0.0
        ranked = sorted((c for c in best.values() if c.score >= threshold), key=lambda c: -c.score)
        return ranked[: request.max_num_results]

    async def _find(
        self, principal: Principal, store: VectorStoreRecord, query: str, request: SearchRequest
    ) -> Sequence[ScoredChunk]:
        filters = filter_tree(request.filters)
        try:
            found = await self._retriever.retrieve(
                principal.tenant_id, [store], query, top_k=request.max_num_results, mode=request.mode, filters=filters
            )
        except InvalidRequestError as error:
            if error.code != "context_length_exceeded":
                raise
            raise InvalidRequestError(
                "The query is longer than the embedding model reads. Shorten it, or search by words with mode 'text'.",
                param="query",
                code=error.code,
            ) from error
        return found.hits

    async def _store(self, principal: Principal, store_id: str) -> VectorStoreRecord:
        principal.require_vector_stores([store_id], "store_id")
        store = await self._stores.get(principal.tenant_id, known_id(store_id, "vector store"))
        if store.status == "expired":
            raise NotFoundError(f"Vector store {store_id} has expired. Create a new one and attach the files again.")
        return store
