"""`/v1/files`: upload, list, read and delete, as OpenAI's API has them."""

from contextlib import aclosing
from typing import Annotated, Any, Literal, get_args
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from aihub.api.deps import PrincipalDep, ServicesDep
from aihub.api.requests import StrictRoute
from aihub.api.uploads import read_upload
from aihub.schemas.common import DeletedObject, ObjectId, Page
from aihub.schemas.files import FileFields, FileObject, FilePurpose
from aihub.schemas.validation import validate

router = APIRouter(route_class=StrictRoute, tags=["files"])

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


@router.post("/v1/files", openapi_extra=_UPLOAD_BODY)
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
                text_encoding=fields.encoding or upload.text_encoding,
            )


@router.get("/v1/files")
async def list_files(
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: ObjectId | None = None,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=64)] = None,
) -> Page[FileObject]:
    return await services.files.list(principal, limit=limit, after=after, order=order, purpose=purpose)


@router.get("/v1/files/{file_id}")
async def get_file(file_id: str, services: ServicesDep, principal: PrincipalDep) -> FileObject:
    return await services.files.get(principal, file_id)


@router.get("/v1/files/{file_id}/content", response_class=StreamingResponse)
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


@router.delete("/v1/files/{file_id}")
async def delete_file(file_id: str, services: ServicesDep, principal: PrincipalDep) -> DeletedObject:
    """Delete the file and detach it from every vector store."""
    return await services.files.delete(principal, file_id)
