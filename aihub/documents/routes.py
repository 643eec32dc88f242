"""`/v1/files`, `/v1/vector_stores` and their file batches, as OpenAI's API has them."""

from contextlib import aclosing
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from aihub.core.schemas import DeletedObject, ObjectId, Page, validate
from aihub.documents.schemas import (
    FileBatchCreate,
    FileBatchObject,
    FileContentPage,
    FileFields,
    FileObject,
    FilePurpose,
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
from aihub.documents.uploads import text_encoding
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep, ServicesDep
from aihub.http.uploads import read_upload

files_router = APIRouter(route_class=StrictRoute, tags=["files"])

_UPLOAD_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(get_args(FilePurpose))},
                        "encoding": {
                            "type": "string",
                            "description": "Of a text file, e.g. windows-1254; found out when absent.",
                        },
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                    },
                }
            }
        },
    }
}


@files_router.post("/v1/files", openapi_extra=_UPLOAD_BODY)
async def upload_file(request: Request, services: ServicesDep, principal: PrincipalDep) -> FileObject:
    """Store one file of at most `AIHUB_MAX_UPLOAD_BYTES`. Attach it to a vector store to make it searchable.

    `encoding` names the encoding of a text file, as the parameter `charset` of the part's Content-Type does.
    """
    settings = services.settings
    async with read_upload(request, max_bytes=settings.max_upload_bytes, stall_s=settings.body_timeout_s) as upload:
        fields = validate(FileFields, upload.fields)
        expiry = fields.expires_after
        async with aclosing(upload.chunks()) as content:
            return await services.files.upload(
                principal,
                filename=upload.filename,
                purpose=fields.purpose,
                content=content,
                expires_after_s=None if expiry is None else expiry.seconds,
                text_encoding=fields.encoding or text_encoding(upload.content_type),
            )


@files_router.get("/v1/files")
async def list_files(
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: ObjectId | None = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> Page[FileObject]:
    return await services.files.list(principal, limit=limit, after=after, order=order, purpose=purpose)


@files_router.get("/v1/files/{file_id}")
async def get_file(file_id: str, services: ServicesDep, principal: PrincipalDep) -> FileObject:
    return await services.files.get(principal, file_id)


@files_router.get("/v1/files/{file_id}/content", response_class=StreamingResponse)
async def get_file_content(file_id: str, services: ServicesDep, principal: PrincipalDep) -> StreamingResponse:
    """The bytes as they were uploaded."""
    file, content = await services.files.content(principal, file_id)
    headers = {
        "content-length": str(file.bytes),
        # A stored page must never run as one of the hub's own.
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    return StreamingResponse(content, media_type="application/octet-stream", headers=headers)


@files_router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, services: ServicesDep, principal: PrincipalDep) -> DeletedObject:
    """Delete the file and detach it from every vector store."""
    return await services.files.delete(principal, file_id)


vector_stores_router = APIRouter(route_class=StrictRoute, prefix="/v1/vector_stores", tags=["vector stores"])

Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]

POLL_AFTER_MS = "250"  # a small document is searchable within this time


@vector_stores_router.post("")
async def create_vector_store(body: VectorStoreCreate, services: ServicesDep, principal: PrincipalDep) -> VectorStoreObject:
    """Create a store for the running embedding model; `file_ids` are attached and indexed in the background."""
    return await services.vector_stores.create(principal, body)


@vector_stores_router.get("")
async def list_vector_stores(
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Limit = 20,
    after: ObjectId | None = None,
    before: ObjectId | None = None,
    order: Order = "desc",
) -> Page[VectorStoreObject]:
    return await services.vector_stores.list(principal, limit=limit, after=after, before=before, order=order)


@vector_stores_router.get("/{store_id}")
async def get_vector_store(store_id: str, services: ServicesDep, principal: PrincipalDep) -> VectorStoreObject:
    return await services.vector_stores.get(principal, store_id)


@vector_stores_router.post("/{store_id}")
async def update_vector_store(
    store_id: str, body: VectorStoreUpdate, services: ServicesDep, principal: PrincipalDep
) -> VectorStoreObject:
    return await services.vector_stores.update(principal, store_id, body)


@vector_stores_router.delete("/{store_id}")
async def delete_vector_store(store_id: str, services: ServicesDep, principal: PrincipalDep) -> DeletedObject:
    """Delete the store with all it indexed; the files themselves stay."""
    return await services.vector_stores.delete(principal, store_id)


@vector_stores_router.post("/{store_id}/search")
async def search_vector_store(
    store_id: str, body: SearchRequest, services: ServicesDep, principal: PrincipalDep
) -> SearchResults:
    """Find the chunks that answer best: by meaning and by words (`mode` chooses one of them)."""
    return await services.vector_stores.search(principal, store_id, body)


@vector_stores_router.post("/{store_id}/files")
async def attach_file(
    store_id: str, body: VectorStoreFileCreate, services: ServicesDep, principal: PrincipalDep
) -> VectorStoreFileObject:
    """Attach an uploaded file and start indexing it; poll until its status is no longer `in_progress`."""
    return await services.vector_stores.attach_file(principal, store_id, body)


@vector_stores_router.get("/{store_id}/files")
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


@vector_stores_router.get("/{store_id}/files/{file_id}")
async def get_attached_file(
    store_id: str, file_id: str, response: Response, services: ServicesDep, principal: PrincipalDep
) -> VectorStoreFileObject:
    file = await services.vector_stores.get_file(principal, store_id, file_id)
    if file.status == "in_progress":
        response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return file


@vector_stores_router.post("/{store_id}/files/{file_id}")
async def update_attached_file(
    store_id: str, file_id: str, body: VectorStoreFileUpdate, services: ServicesDep, principal: PrincipalDep
) -> VectorStoreFileObject:
    """Replace the attributes that `filters` look at."""
    return await services.vector_stores.update_file(principal, store_id, file_id, body)


@vector_stores_router.delete("/{store_id}/files/{file_id}")
async def detach_file(store_id: str, file_id: str, services: ServicesDep, principal: PrincipalDep) -> DeletedObject:
    """Take the file out of this store, also while it is being indexed; the file itself stays."""
    return await services.vector_stores.detach_file(principal, store_id, file_id)


@vector_stores_router.get("/{store_id}/files/{file_id}/content")
async def get_attached_file_content(
    store_id: str, file_id: str, services: ServicesDep, principal: PrincipalDep
) -> FileContentPage:
    """The text the file was parsed to; citation offsets count its characters."""
    return await services.vector_stores.file_content(principal, store_id, file_id)


file_batches_router = APIRouter(
    route_class=StrictRoute, prefix="/v1/vector_stores/{store_id}/file_batches", tags=["vector stores"]
)


@file_batches_router.post("")
async def create_file_batch(
    store_id: str, body: FileBatchCreate, services: ServicesDep, principal: PrincipalDep
) -> FileBatchObject:
    """Attach up to 2000 uploaded files, all or none, and start indexing; poll until the status is no longer `in_progress`."""
    return await services.file_batches.create(principal, store_id, body)


@file_batches_router.get("/{batch_id}")
async def get_file_batch(
    store_id: str, batch_id: str, response: Response, services: ServicesDep, principal: PrincipalDep
) -> FileBatchObject:
    batch = await services.file_batches.get(principal, store_id, batch_id)
    if batch.status == "in_progress":
        response.headers["openai-poll-after-ms"] = POLL_AFTER_MS
    return batch


@file_batches_router.post("/{batch_id}/cancel")
async def cancel_file_batch(store_id: str, batch_id: str, services: ServicesDep, principal: PrincipalDep) -> FileBatchObject:
    """Stop indexing the batch's files; those indexed already stay in the store."""
    return await services.file_batches.cancel(principal, store_id, batch_id)


@file_batches_router.get("/{batch_id}/files")
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
