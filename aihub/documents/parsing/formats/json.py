"""JSON to text: the leaves, each with the path of keys that leads to it."""

import json
from typing import Any, NoReturn

from aihub.documents.parsing.clean import BoundedText, DocumentError

_MAX_DEPTH = 100


class _Pairs(list[tuple[str, Any]]):
    """An object as its pairs: a repeated key must not swallow the earlier value."""


def read_json(text: str, max_characters: int) -> str:
    """Return `path.to.key: value` lines, with a blank line between the objects of a list; numbers as they are written.

    Raises:
        DocumentError: `invalid_file` when it is not JSON (NaN and Infinity are not), or nested over 100 levels; `too_large`.
    """
    try:
        value = json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str, parse_constant=_refuse)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise DocumentError(f"The file is not valid JSON: {error}.") from error
    out = BoundedText(max_characters)
    _write(value, "", 0, out)
    return out.text()


def _write(value: Any, path: str, depth: int, out: BoundedText) -> None:
    if depth > _MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, _Pairs):
        for key, item in value:
            _write(item, f"{path}.{key}" if path else key, depth + 1, out)
    elif isinstance(value, list):
        for item in value:
            _write(item, path, depth + 1, out)
            if isinstance(item, list):
                out.add("\n")
    elif value is not None:
        leaf = str(value).lower() if isinstance(value, bool) else value
        if leaf.strip():
            out.add(f"{path}: {leaf}\n" if path else f"{leaf}\n")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _too_deep() -> DocumentError:
    return DocumentError(f"The JSON file is nested more than {_MAX_DEPTH} levels deep; flatten it.")
