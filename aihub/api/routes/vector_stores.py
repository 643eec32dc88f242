"""`/v1/vector_stores`: stores, the files attached to them and search, as OpenAI's API has them."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from aihub.api.deps import PrincipalDep, ServicesDep
from aihub.api.requests import StrictRoute
from aihub.schemas.common import DeletedObject, ObjectId, Page
from aihub.schemas.vector_stores import (
    FileContentPage,
    FileStatus,
    SearchRequest,
    SearchResults,
    VectorStoreCreate,
    VectorStoreFileCreate,
    VectorStoreFileObject,
    VectorStoreFileUpdate,
    VectorStoreObject,
    VectorStoreUpdate,
)

router = APIRouter(route_class=StrictRoute, prefix="/v1/vector_stores", tags=["vector stores"])

Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]

POLL_AFTER_MS = "250"  # a small document is searchable within this time


@router.post("")
async def create_vector_store(body: VectorStoreCreate, services: ServicesDep, principal: PrincipalDep) -> VectorStoreObject:
    """Create a store for the running embedding model; `file_ids` are attached and indexed in the background."""
    return await services.vector_stores.create(principal, body)


@router.get("")
async def list_vector_stores(
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Limit = 20,
    after: ObjectId | None = None,
    before: ObjectId | None = None,
    order: Order = "desc",
) -> Page[VectorStoreObject]:
    return await services.vector_stores.list(principal, limit=limit, after=after, before=before, order=order)


@router.get("/{store_id}")
async def get_vector_store(store_id: str, services: ServicesDep, principal: PrincipalDep) -> VectorStoreObject:
    return await services.vector_stores.get(principal, store_id)


@router.post("/{store_id}")
async def update_vector_store(
    store_id: str, body: VectorStoreUpdate, services: ServicesDep, principal: PrincipalDep
) -> VectorStoreObject:
    return await services.vector_stores.update(principal, store_id, body)


@router.delete("/{store_id}")
async def delete_vector_store(store_id: str, services: ServicesDep, principal: PrincipalDep) -> DeletedObject:
    """Delete the store with all it indexed; the files themselves stay."""
    return await services.vector_stores.delete(principal, store_id)


@router.post("/{store_id}/search")
async def search_vector_store(
    store_id: str, body: SearchRequest, services: ServicesDep, principal: PrincipalDep
) -> SearchResults:
    """Find the chunks that answer best: by meaning and by words (`mode` chooses one of them)."""
    return await services.vector_stores.search(principal, store_id, body)


@router.post("/{store_id}/files")
async def attach_file(
    store_id: str, body: VectorStoreFileCreate, services: ServicesDep, principal: PrincipalDep
) -> VectorStoreFileObject:
    """Attach an uploaded file and start indexing it; poll until its status is no longer `in_progress`."""
    return await services.vector_stores.attach_file(principal, store_id, body)


@router.get("/{store_id}/files")
async def list_attached_files(
    store_id: str,
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Limit = 20,
    after: ObjectId | None = None,
    before: ObjectId | None = None,
    order: Order = "desc",
    status: Annotated[FileStatus | None, Query(alias="filter")] = None,
) -> Page[VectorStoreFileObject]:
    return await services.vector_stores.list_files(
        principal, store_id, limit=limit, after=after, before=before, order=order, status=status
    )


@router.get("/{store_id}/files/{file_id}")
async def get_attached_file(
    store_id: str, file_id: str, response: Response, services: ServicesDep, principal: PrincipalDep
) -> VectorStoreFileObject:
    file = await services.vector_stores.get_file(principal, store_id, file_id)
    if file.status == "in_progress":
        response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return file


@router.post("/{store_id}/files/{file_id}")
async def update_attached_file(
    store_id: str, file_id: str, body: VectorStoreFileUpdate, services: ServicesDep, principal: PrincipalDep
) -> VectorStoreFileObject:
    """Replace the attributes that `filters` look at."""
    return await services.vector_stores.update_file(principal, store_id, file_id, body)


@router.delete("/{store_id}/files/{file_id}")
async def detach_file(store_id: str, file_id: str, services: ServicesDep, principal: PrincipalDep) -> DeletedObject:
    """Take the file out of this store, also while it is being indexed; the file itself stays."""
    return await services.vector_stores.detach_file(principal, store_id, file_id)


@router.get("/{store_id}/files/{file_id}/content")
async def get_attached_file_content(
    store_id: str, file_id: str, services: ServicesDep, principal: PrincipalDep
) -> FileContentPage:
    """The text the file was parsed to; citation offsets count its characters."""
    return await services.vector_stores.file_content(principal, store_id, file_id)
