"""OpenAI's attribute filters as parameterised SQL over a jsonb column.

A comparison with `gt`, `gte`, `lt` or `lte` holds only between values of one type: numbers by size, strings by code point (so
ISO dates sort). `ne` and `nin` are the exact opposites of `eq` and `in`; a file without the attribute satisfies them.
"""

from typing import Any, LiteralString

from psycopg import sql
from psycopg.types.json import Jsonb

from aihub.core.errors import InvalidRequestError

_ORDER: dict[str, LiteralString] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_JOIN: dict[str, LiteralString] = {"and": " AND ", "or": " OR "}
MAX_DEPTH = 8


def compile_filter(filters: dict[str, Any], column: sql.Composable, depth: int = 0) -> tuple[sql.Composable, list[Any]]:
    """Return a condition on `column` with its positional parameters; keys and values are only ever parameters.

    Raises:
        InvalidRequestError: Not a filter (`aihub.core.filters` says so earlier and better).
    """
    kind = filters.get("type")
    if kind in _JOIN:
        return _compound(_JOIN[kind], filters.get("filters"), column, depth)
    key, value = filters.get("key"), filters.get("value")
    if not isinstance(key, str):
        raise _invalid()
    field = sql.SQL("({} -> %s::text)").format(column)
    match kind:
        case "eq":
            return sql.SQL("coalesce({} = %s, false)").format(field), [key, Jsonb(value)]
        case "ne":
            return sql.SQL("NOT coalesce({} = %s, false)").format(field), [key, Jsonb(value)]
        case "in" | "nin" if isinstance(value, list):
            negation = sql.SQL("NOT " if kind == "nin" else "")
            any_of = sql.SQL("{}coalesce({} = ANY(%s::jsonb[]), false)").format(negation, field)
            return any_of, [key, [Jsonb(item) for item in value]]
        case "gt" | "gte" | "lt" | "lte" if isinstance(value, str):
            text = sql.SQL("(jsonb_typeof({field}) = 'string' AND ({column} ->> %s::text) COLLATE \"C\" {operator} %s::text)")
            return text.format(field=field, column=column, operator=sql.SQL(_ORDER[kind])), [key, key, value]
        case "gt" | "gte" | "lt" | "lte" if isinstance(value, int | float) and not isinstance(value, bool):
            number = sql.SQL("(jsonb_typeof({field}) = 'number' AND {field} {operator} %s)")
            return number.format(field=field, operator=sql.SQL(_ORDER[kind])), [key, key, Jsonb(value)]
        case _:
            raise _invalid()


def _compound(joint: LiteralString, children: Any, column: sql.Composable, depth: int) -> tuple[sql.Composable, list[Any]]:
    if not isinstance(children, list) or not children or depth >= MAX_DEPTH:
        raise _invalid()
    conditions: list[sql.Composable] = []
    params: list[Any] = []
    for child in children:
        if not isinstance(child, dict):
            raise _invalid()
        condition, values = compile_filter(child, column, depth + 1)
        conditions.append(condition)
        params += values
    return sql.SQL("({})").format(sql.SQL(joint).join(conditions)), params


def _invalid() -> InvalidRequestError:
    return InvalidRequestError("'filters' is not an attribute filter.", param="filters")
