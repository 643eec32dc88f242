"""Loads CSV files into the hub's own shop tables: COPY into a staging table, then one upsert; all files or none. Blocking."""

import csv
import gzip
import io
import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import psycopg
from psycopg.sql import SQL, Identifier

from aihub.core.errors import InvalidRequestError, StorageUnavailableError
from aihub.core.principal import DEFAULT_TENANT
from aihub.recsys.results import Progress, ignore_progress

PIECE_BYTES = 2**20
Writer = Callable[[bytes], None]
_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".csv": lambda path: path.open("rb"),
    ".gz": lambda path: cast(BinaryIO, gzip.open(path, "rb")),
    ".xz": lambda path: cast(BinaryIO, lzma.open(path, "rb")),
}


@dataclass(frozen=True, slots=True)
class TableFormat:
    """Columns of one table's CSV; `store_id` may be left out when the import names the store."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return self.required + self.optional


# In the order in which rows refer to each other.
FORMATS: Mapping[str, TableFormat] = {
    "stores": TableFormat(("id", "name"), ("created_at",)),
    "customers": TableFormat(("store_id", "id"), ("created_at",)),
    "products": TableFormat(("store_id", "id", "name"), ("created_at", "deleted_at")),
    "variants": TableFormat(("store_id", "id", "product_id", "sku"), ("price", "stock", "deleted_at")),
    "orders": TableFormat(("store_id", "id", "ordered_at"), ("customer_id", "status")),
    "order_items": TableFormat(("store_id", "id", "order_id", "variant_id", "quantity"), ("unit_price",)),
    "cart_items": TableFormat(("store_id", "id", "customer_id", "variant_id", "added_at"), ("quantity",)),
}


@dataclass(frozen=True, slots=True)
class CsvSource:
    """One table's rows.

    Attributes:
        name: Shown in errors.
        columns: The header.
        pieces: CSV text in UTF-8 without the header, in pieces of any size.
        size_bytes: For the progress; 0 when unknown.
    """

    name: str
    columns: tuple[str, ...]
    pieces: Callable[[], Iterator[bytes]]
    size_bytes: int = 0


def import_folder(
    dsn: str,
    folder: Path,
    *,
    store_id: int | None = None,
    tenant: str = DEFAULT_TENANT,
    progress: Progress = ignore_progress,
) -> dict[str, int]:
    """Load `stores.csv`, `customers.csv` and so on (also `.csv.gz`, `.csv.xz`); return the rows of each table.

    Rows whose id is there already are replaced. An empty field is null.

    Args:
        dsn: The hub's database, migrated.
        folder: Where the files are.
        store_id: The store of files without a `store_id` column.
        tenant: Owner of the rows.
        progress: Called with the table and the share loaded.

    Raises:
        InvalidRequestError: No file, a wrong header or a wrong row; the message names file, line and column.
        StorageUnavailableError: PostgreSQL does not answer.
    """
    sources: dict[str, CsvSource] = {}
    for table in FORMATS:
        path = _find(folder, table)
        if path is not None:
            sources[table] = _open_source(path, table, has_store=store_id is not None)
    if not sources:
        raise InvalidRequestError(f"{folder} has none of {', '.join(f'{table}.csv' for table in FORMATS)}.")
    return import_sources(dsn, sources, store_id=store_id, tenant=tenant, progress=progress)


def import_sources(
    dsn: str,
    sources: Mapping[str, CsvSource],
    *,
    store_id: int | None = None,
    tenant: str = DEFAULT_TENANT,
    progress: Progress = ignore_progress,
) -> dict[str, int]:
    """Load rows of several tables in one transaction; see `import_folder`."""
    counts: dict[str, int] = {}
    with _connected(dsn) as connection:
        if store_id is not None:
            connection.execute(
                "INSERT INTO stores (tenant_id, id, name) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (tenant, store_id, f"Store {store_id}"),
            )
        for table in FORMATS:
            if table in sources:
                counts[table] = _load(connection, table, sources[table], tenant, store_id, progress)
                # Checks of foreign keys read whole tables when the planner takes them for empty, as it does until this.
                connection.execute(SQL("ANALYZE {}").format(Identifier(table)))
    return counts


def _load(
    connection: psycopg.Connection[Any],
    table: str,
    source: CsvSource,
    tenant: str,
    store_id: int | None,
    progress: Progress,
) -> int:
    given = [Identifier(name) for name in source.columns]
    staging = Identifier(f"staging_{table}")
    connection.execute(
        SQL("CREATE TEMP TABLE {} ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA").format(
            staging, SQL(", ").join(given), Identifier(table)
        )
    )
    try:
        with connection.cursor() as cursor:
            statement = SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(staging, SQL(", ").join(given))
            done = 0
            with cursor.copy(statement) as copy:
                for piece in source.pieces():
                    copy.write(piece)
                    done += len(piece)
                    progress(f"loading {table}", min(1.0, done / max(1, source.size_bytes)))
            rows = cursor.rowcount
        _upsert(connection, table, source.columns, tenant, store_id)
        progress(f"loading {table}", 1.0)
        return rows
    except psycopg.errors.CardinalityViolation as error:
        raise InvalidRequestError(
            f"{source.name}: an id comes a second time. Nothing was imported. Keep one row of each."
        ) from error
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        where = (error.diag.context or "").replace(f"COPY staging_{table}, ", "").split("\n")[0]
        detail = error.diag.message_detail or ""
        reason = " ".join(part for part in (f"{error.diag.message_primary}.", detail, where and f"({where})") if part)
        raise InvalidRequestError(f"{source.name}: {reason} Nothing was imported. Correct the file and try again.") from error


def _upsert(connection: psycopg.Connection[Any], table: str, columns: Sequence[str], tenant: str, store_id: int | None) -> None:
    adds_store = "store_id" in FORMATS[table].required and "store_id" not in columns
    names = ["tenant_id", *(["store_id"] if adds_store else []), *columns]
    key = ["tenant_id", "id"] if table == "stores" else ["tenant_id", "store_id", "id"]
    changed = [name for name in names if name not in key]
    updates = SQL(", ").join(SQL("{0} = excluded.{0}").format(Identifier(name)) for name in changed)
    statement = SQL("INSERT INTO {} ({}) SELECT %(tenant)s, {}{} FROM {} ON CONFLICT ({}) DO {}").format(
        Identifier(table),
        SQL(", ").join(map(Identifier, names)),
        SQL("%(store)s::bigint, ") if adds_store else SQL(""),
        SQL(", ").join(map(_filled, columns)),
        Identifier(f"staging_{table}"),
        SQL(", ").join(map(Identifier, key)),
        SQL("UPDATE SET {}").format(updates) if changed else SQL("NOTHING"),
    )
    connection.execute(statement, {"tenant": tenant, "store": store_id})


def _filled(column: str) -> Any:
    """A column of the staging table; an empty field takes the table's default where null makes no sense."""
    defaults = {"created_at": SQL("now()"), "status": SQL("'completed'"), "quantity": SQL("1")}
    name = Identifier(column)
    return SQL("coalesce({}, {})").format(name, defaults[column]) if column in defaults else name


def _find(folder: Path, table: str) -> Path | None:
    candidates = (folder / f"{table}.csv{suffix}" for suffix in ("", ".gz", ".xz"))
    return next((path for path in candidates if path.is_file()), None)


def _open_source(path: Path, table: str, *, has_store: bool) -> CsvSource:
    with _reading(path) as file:
        line = file.readline()
    try:
        header = tuple(name.strip().lower() for name in next(csv.reader(io.StringIO(line.decode("utf-8-sig"))), []))
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{path.name} is not UTF-8. Save it as CSV in UTF-8.") from error
    expected = FORMATS[table]
    unknown = [name for name in header if name not in expected.columns]
    missing = [name for name in expected.required if name not in header and not (name == "store_id" and has_store)]
    if unknown or missing or len(set(header)) < len(header):
        raise InvalidRequestError(
            f"{path.name}: the first line must name the columns {', '.join(expected.required)}, and may name "
            f"{', '.join(expected.optional) or 'no more'}. Missing: {', '.join(missing) or 'none'}; "
            f"unknown: {', '.join(unknown) or 'none'}." + (" Or name the store with --store." if "store_id" in missing else "")
        )

    def pieces() -> Iterator[bytes]:
        with _reading(path) as file:
            file.readline()
            while piece := file.read(PIECE_BYTES):
                yield piece

    # Compressed files grow about fourfold; the bar is a guess there.
    return CsvSource(path.name, header, pieces, path.stat().st_size * (1 if path.suffix == ".csv" else 4))


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    try:
        with _OPENERS[path.suffix](path) as file:
            yield file
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise InvalidRequestError(f"{path.name} cannot be read: {error}.") from error


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """One transaction on the hub's database."""
    try:
        with psycopg.connect(dsn, connect_timeout=5, application_name="aihub-import", client_encoding="utf8") as connection:
            yield connection
    except psycopg.errors.UndefinedTable as error:
        raise StorageUnavailableError("The hub's database lacks tables. Run `aihub db upgrade`.") from error
    except psycopg.OperationalError as error:
        raise StorageUnavailableError(f"PostgreSQL does not answer: {' '.join(str(error).split())}") from error
