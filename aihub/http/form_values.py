"""The text fields of a form as the JSON values that a request of JSON would hold."""

from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from aihub.core.errors import InvalidRequestError
from aihub.http.strict_json import parse_strict_json

_MOST_SHOWN_CHARS = 64
_SWITCHES = {"true": True, "false": False}


def read_form_values(model: type[BaseModel], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with JSON read where `model` takes no text; what is no text or no field of `model` stays as it is.

    True and False count in any case, as clients write them as their language does. Where a field takes a text or a list, what
    begins as a list is one. Text that is no JSON stands for itself, so that the model says what it wants in its place.

    Raises:
        InvalidRequestError: A list or an object is no valid JSON; `param` names it.
    """
    kinds = {name: _kinds(field.annotation) for name, field in model.model_fields.items()}
    return {
        name: _read(name, value, kinds[name]) if isinstance(value, str) and name in kinds else value
        for name, value in fields.items()
    }


def _read(name: str, text: str, kinds: frozenset[Any]) -> Any:
    stripped = text.strip()
    if bool in kinds and stripped.lower() in _SWITCHES:
        return _SWITCHES[stripped.lower()]
    is_structure = stripped[:1] in {"[", "{"}
    if str in kinds and not (is_structure and any(map(_is_structure, kinds))):
        return text
    try:
        return parse_strict_json(stripped.encode())
    except InvalidRequestError as error:
        if not is_structure:
            return text
        shown = name[:_MOST_SHOWN_CHARS]
        raise InvalidRequestError(f"The option `{shown}` is no valid JSON. {error.message}", param=shown) from error


def _kinds(annotation: Any) -> frozenset[Any]:
    """Return the types of which an annotation takes values, without what is inside of them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return frozenset().union(*map(_kinds, get_args(annotation)))
    if origin is Literal:
        return frozenset(map(type, get_args(annotation)))
    return frozenset({origin or annotation})


def _is_structure(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel | list | dict)
