"""`/v1/vector_stores/{id}/file_batches`: many files attached and followed together, as OpenAI's API has it."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from aihub.api.deps import PrincipalDep, ServicesDep
from aihub.api.requests import StrictRoute
from aihub.api.routes.vector_stores import POLL_AFTER_MS, Limit, Order
from aihub.schemas.common import ObjectId, Page
from aihub.schemas.vector_stores import FileBatchCreate, FileBatchObject, FileStatus, VectorStoreFileObject

router = APIRouter(route_class=StrictRoute, prefix="/v1/vector_stores/{store_id}/file_batches", tags=["vector stores"])


@router.post("")
async def create_file_batch(
    store_id: str, body: FileBatchCreate, services: ServicesDep, principal: PrincipalDep
) -> FileBatchObject:
    """Attach up to 2000 uploaded files, all or none, and start indexing; poll until the status is no longer `in_progress`."""
    return await services.file_batches.create(principal, store_id, body)


@router.get("/{batch_id}")
async def get_file_batch(
    store_id: str, batch_id: str, response: Response, services: ServicesDep, principal: PrincipalDep
) -> FileBatchObject:
    batch = await services.file_batches.get(principal, store_id, batch_id)
    if batch.status == "in_progress":
        response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return batch


@router.post("/{batch_id}/cancel")
async def cancel_file_batch(store_id: str, batch_id: str, services: ServicesDep, principal: PrincipalDep) -> FileBatchObject:
    """Stop indexing the batch's files; those indexed already stay in the store."""
    return await services.file_batches.cancel(principal, store_id, batch_id)


@router.get("/{batch_id}/files")
async def list_files_of_batch(
    store_id: str,
    batch_id: str,
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Limit = 20,
    after: ObjectId | None = None,
    before: ObjectId | None = None,
    order: Order = "desc",
    status: Annotated[FileStatus | None, Query(alias="filter")] = None,
) -> Page[VectorStoreFileObject]:
    return await services.file_batches.list_files(
        principal, store_id, batch_id, limit=limit, after=after, before=before, order=order, status=status
    )
