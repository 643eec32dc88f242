"""Wire types of `/v1/files`, in OpenAI's shapes."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from aihub.documents.encodings.labels import codec_of
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


def _codec(label: str | None) -> str | None:
    if not label:
        return None
    codec = codec_of(label)
    if codec is None:
        raise ValueError(
            "no encoding that is known; use a name such as utf-8, windows-1254, gbk or shift_jis, or convert the file"
        )
    return codec


class FileFields(BaseModel):
    """The text fields of a multipart upload; values arrive as strings, `encoding` becomes Python's codec.

    Raises:
        pydantic.ValidationError: A field is missing, unknown in its values or out of bounds.
    """

    model_config = ConfigDict(extra="ignore")

    purpose: FilePurpose
    expires_after: FileExpiresAfter | None = None
    encoding: Annotated[str | None, AfterValidator(_codec)] = None


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
