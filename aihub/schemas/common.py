"""Bases and shapes shared by all wire types."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator


class NullIsAbsent(BaseModel):
    """Base of requests: null for a field with a default is as if the field were not there, as many clients send it.

    A field whose default is null keeps it, so that "set to null" and "not sent" stay apart where an update needs that.
    """

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        defaulted = {
            field.alias or name
            for name, field in cls.model_fields.items()
            if not field.is_required() and field.default is not None
        }
        return {key: value for key, value in data.items() if value is not None or key not in defaulted}


class LenientModel(NullIsAbsent):
    """A request object of OpenAI's API: strict types, unknown fields ignored so that newer clients keep working."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class ClosedModel(NullIsAbsent):
    """A request object of the hub's own: strict types, unknown fields refused so that a typo is not ignored."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class ResponseModel(BaseModel):
    """An answer; built by the hub, so not validated strictly."""

    model_config = ConfigDict(extra="forbid")


ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A model id as clients send it."""

ObjectId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""A generated id (`file-...`, `vs_...`)."""

MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
"""OpenAI's metadata: at most 16 pairs, keys to 64 and values to 512 characters."""

Item = TypeVar("Item")


class Page(ResponseModel, Generic[Item]):
    """One page of a listing, OpenAI's cursor form."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class ErrorDetail(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(ResponseModel):
    """OpenAI's error object; every failure of the API has this shape."""

    error: ErrorDetail


class DeletedObject(ResponseModel):
    """The answer to a deletion."""

    id: str
    object: str
    deleted: Literal[True] = True
