"""Bases and shapes shared by all wire types, and pydantic's findings as one error of the hub.

The error says where, what is wrong and what is allowed.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from aihub.core.errors import InvalidRequestError


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


Data = TypeVar("Data")


class Success(ResponseModel, Generic[Data]):
    """The envelope of the earlier services' paths; failures are OpenAI's error object there, too."""

    success: Literal[True] = True
    data: Data


Model = TypeVar("Model", bound=BaseModel)
_MOST_NAMED = 5
Details = Mapping[str, Any]

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "is not a known field here; check its spelling",
    "bool_type": "must be true or false",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "is required",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must hold at least {min_length} item(s)",
    "too_long": "must hold at most {max_length} items",
    "string_pattern_mismatch": "must match {pattern}",
    "none_required": "must be null",
}

_CODES = {
    "missing": "missing_required_parameter",
    "union_tag_not_found": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "context_length_exceeded": "context_length_exceeded",
}


def validate(model: type[Model], data: Any) -> Model:
    """Validate JSON values into a request.

    Raises:
        InvalidRequestError: The first finding in words, with the dotted path of the field in `param`.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid_request(error.errors(include_url=False, include_input=False), data) from error


def invalid_request(errors: Sequence[Details], body: Any, *, has_source: bool = False) -> InvalidRequestError:
    """Turn pydantic's error list into one error.

    Args:
        errors: `ValidationError.errors()`.
        body: The JSON values that were validated; tells fields from pydantic's union tags in the paths.
        has_source: Whether each path begins with where the value came from (`body`, `query`, `path`), as FastAPI's do.
    """
    places = [_place(error, body, has_source=has_source) for error in errors]
    deepest = max(places, key=len)
    place = deepest if deepest[: len(places[0])] == places[0] else places[0]
    # Members of a union fail at one place each in its own words; together they say what is allowed.
    at_place = [error for error, path in zip(errors, places, strict=True) if path == place]
    wording = list(dict.fromkeys(_wording(error) for error in at_place))
    param = ".".join(place)
    text = " or ".join([wording[0], *(other.removeprefix("must be ") for other in wording[1:])])
    subject = f"'{param}'" if param else "The request"
    others = {".".join(path): None for path in places if path[: len(place)] != place and place[: len(path)] != path}
    suffix = f" Also wrong: {', '.join(list(others)[:_MOST_NAMED])}." if others else ""
    code = _CODES.get(str(at_place[0]["type"]), "invalid_value")
    return InvalidRequestError(f"{subject} {text}.{suffix}", param=param or None, code=code)


def _place(error: Details, body: Any, *, has_source: bool) -> tuple[str, ...]:
    path: list[str] = []
    current = body
    location = list(error["loc"])
    if has_source:
        source, *location = location
        if source != "body":
            return tuple(map(str, location))
    for position, part in enumerate(location):
        if isinstance(current, Mapping) and part in current:
            current = current[part]
        elif isinstance(current, list) and isinstance(part, int) and part < len(current):
            current = current[part]
        elif not (error["type"] == "missing" and position == len(location) - 1):
            continue  # A tag pydantic added for a union member or a key.
        path.append(str(part))
    context = error.get("ctx") or {}
    if error["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        path.append(str(context["discriminator"]).strip("'"))
    if "below" in context:
        path.extend(str(context["below"]).split("."))
    return tuple(path)


def _wording(error: Details) -> str:
    template = _MESSAGES.get(str(error["type"]))
    context = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in (error.get("ctx") or {}).items()}
    if template is not None:
        return template.format_map(context)
    message = str(error["msg"]).removeprefix("Value error, ").removesuffix(".")
    return message.replace("Input should be", "must be")
