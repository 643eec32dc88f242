"""Wire types of `/v1/files`, in OpenAI's shapes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from aihub.schemas.common import ResponseModel

FilePurpose = Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]
"""What a file is for. Only a label: any file may be attached to a vector store."""

MIN_EXPIRY_S = 3_600
MAX_EXPIRY_S = 2_592_000


class FileExpiresAfter(BaseModel):
    """When an uploaded file deletes itself."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


class FileFields(BaseModel):
    """The text fields of a multipart upload; values arrive as strings.

    Raises:
        pydantic.ValidationError: A field is missing, unknown in its values or out of bounds.
    """

    model_config = ConfigDict(extra="ignore")

    purpose: FilePurpose
    expires_after: FileExpiresAfter | None = None


class FileObject(ResponseModel):
    """One uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None = None
