"""A mapping compared with the live database: every table and column is there and of a fitting type."""

import difflib
from collections.abc import Mapping as Dictionary
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, Connection

from aihub.recsys.data.connections import MappingMismatchError
from aihub.recsys.data.mapping import COLUMN_KINDS, Kind, Mapping

_COLUMNS = """
    SELECT table_schema::text, table_name::text, column_name::text, data_type::text
    FROM information_schema.columns
    WHERE table_schema = ANY(current_schemas(false)) OR table_schema = ANY(%(schemas)s)
    ORDER BY array_position(current_schemas(false), table_schema::name) NULLS LAST
"""

_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_TIMES = frozenset({"timestamp with time zone", "timestamp without time zone", "date", "bigint", "integer"})
_NUMBERS = _INTEGERS | {"numeric", "real", "double precision"}
_TEXTS = frozenset({"text", "character varying", "character", "USER-DEFINED", "uuid"}) | _INTEGERS
_FITTING: dict[Kind, frozenset[str] | None] = {
    "id": _INTEGERS,
    "time": _TIMES,
    "number": _NUMBERS,
    "text": _TEXTS,
    "mark": None,
}
_WANTED: dict[Kind, str] = {
    "id": "a whole number (smallint, integer or bigint)",
    "time": "a timestamp, a date, or unix seconds as bigint",
    "number": "a number",
    "text": "a text",
    "mark": "anything",
}

TypesByTable = dict[tuple[str, str], dict[str, str]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A mapping that fits its database.

    Attributes:
        mapping: Names.
        schemas: The schema in which each table was found, by the hub's table.
        types: SQL type by (the hub's table, the hub's column).
    """

    mapping: Mapping
    schemas: Dictionary[str, str]
    types: Dictionary[tuple[str, str], str]

    def has(self, table: str, column: str) -> bool:
        return (table, column) in self.types


def read_shape(connection: Connection[Any], mapping: Mapping) -> Shape:
    """Compare the mapping with the database. Blocking.

    Raises:
        MappingMismatchError: Tables or columns are missing, not readable or of a type that does not fit; all are named.
    """
    return _fit(mapping, connection.execute(_COLUMNS, {"schemas": _schemas(mapping)}).fetchall())


async def read_shape_async(connection: AsyncConnection[Any], mapping: Mapping) -> Shape:
    """Compare the mapping with the database; see `read_shape`."""
    cursor = await connection.execute(_COLUMNS, {"schemas": _schemas(mapping)})
    return _fit(mapping, await cursor.fetchall())


def _schemas(mapping: Mapping) -> list[str]:
    return [table.schema_name for table in mapping.tables.named().values() if table.schema_name is not None]


def _fit(mapping: Mapping, rows: list[tuple[str, str, str, str]]) -> Shape:
    tables: TypesByTable = {}
    first_schema: dict[str, str] = {}
    for schema, name, column, data_type in rows:
        tables.setdefault((schema, name), {})[column] = data_type
        first_schema.setdefault(name, schema)
    problems: list[str] = []
    schemas: dict[str, str] = {}
    types: dict[tuple[str, str], str] = {}
    for ours, table in mapping.tables.named().items():
        schema = table.schema_name or first_schema.get(table.table_name, "")
        columns = tables.get((schema, table.table_name))
        if columns is None:
            names = [found for _, found in tables] + [".".join(found) for found in tables]
            hint = _hint(table.table, names) or " Create it, grant SELECT on it, or correct the name."
            problems.append(f"{ours}: there is no table {table.table!r} that this user may read.{hint}")
            continue
        schemas[ours] = schema
        for name, theirs in table.named_columns().items():
            found = columns.get(theirs)
            kind = COLUMN_KINDS[name]
            fitting = _FITTING[kind]
            if found is None:
                problems.append(f"{ours}.{name}: {table.table!r} has no column {theirs!r}.{_hint(theirs, list(columns))}")
            elif fitting is not None and found not in fitting:
                problems.append(f"{ours}.{name}: {table.table}.{theirs} is {found}; it must be {_WANTED[kind]}.")
            else:
                types[ours, name] = found
    if problems:
        raise MappingMismatchError("configs/recsys/mapping.yaml does not fit the database. " + " ".join(problems))
    return Shape(mapping, schemas, types)


def _hint(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
