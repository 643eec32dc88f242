"""What every route refuses in the query of a request before it reads it."""

from collections import Counter
from collections.abc import Callable, Iterator
from inspect import isclass
from typing import Any, get_args, get_origin

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import get_flat_dependant
from pydantic import BaseModel

from aihub.core.errors import InvalidRequestError

OWN_PATHS = "/api/"
"""Below it are routes of the hub's own, which refuse unknown parameters as they refuse unknown fields of a body.

The others are OpenAI's and those of the earlier services, whose clients may send parameters that are newer than the hub.
"""


def query_check(dependant: Dependant, path: str) -> Callable[[Request], None]:
    """Return what checks a request of one route.

    Args:
        dependant: What the route declares.
        path: Its template.

    The check raises `InvalidRequestError`, with the parameter in `param`: something holds a NUL character, which
    PostgreSQL cannot store; a parameter that takes one value is there twice; a parameter of a route below
    `OWN_PATHS` is unknown (`unknown_parameter`).
    """
    lists = dict(_parameters(dependant))
    refuses_unknown = path.startswith(OWN_PATHS)

    def check(request: Request) -> None:
        if not request.scope["query_string"]:
            return
        pairs = request.query_params.multi_items()
        for name, value in pairs:
            _refuse_nul(name, name + value)
        for name, times in Counter(name for name, _ in pairs).items():
            if refuses_unknown and name not in lists:
                raise _unknown(name, list(lists))
            if times > 1 and not lists.get(name, True):
                raise InvalidRequestError(f"'{name}' is there {times} times; send it once.", param=name, code="invalid_value")

    return check


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Yield each query parameter, and whether it may be repeated."""
    for field in get_flat_dependant(dependant).query_params:
        annotation = field.field_info.annotation
        if isclass(annotation) and issubclass(annotation, BaseModel):
            for name, member in annotation.model_fields.items():
                yield member.alias or name, _is_list(member.annotation)
        else:
            yield field.alias, _is_list(annotation)


def _is_list(annotation: Any) -> bool:
    return any(get_origin(kind) is list for kind in (annotation, *get_args(annotation)))


def _refuse_nul(name: str, text: str) -> None:
    if "\0" in text:
        shown = name.replace("\0", "\\0")
        raise InvalidRequestError(f"'{shown}' holds a NUL character (%00); leave it out.", param=shown, code="invalid_value")


def _unknown(name: str, known: list[str]) -> InvalidRequestError:
    advice = f"use {', '.join(known)}" if known else "there are none"
    return InvalidRequestError(
        f"'{name[:64]}' is not a known parameter here; check its spelling ({advice}).", param=name, code="unknown_parameter"
    )
