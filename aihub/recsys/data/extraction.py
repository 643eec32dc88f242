"""Reads a store for training: one read-only snapshot, streamed through server-side cursors, limited in time and rows."""

import itertools
import time
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dictionary
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.sql import Composed

from aihub.core.errors import InvalidRequestError
from aihub.recsys.data import queries
from aihub.recsys.data.connections import ShopUnavailableError, TooMuchDataError, connect_shop, translated_errors
from aihub.recsys.data.interactions import Interactions, Period, Sales, period_of_day
from aihub.recsys.data.mapping import Mapping
from aihub.recsys.data.shape import Shape, read_shape

BATCH_ROWS = 50_000
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_QUIET_DAYS = 2
"""How long before the end of a week the newest order may be for the week to be complete; shops close on some days."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of reading one store.

    Attributes:
        timeout_s: All statements together.
        max_events: Rows of one extraction.
    """

    timeout_s: float = 600.0
    max_events: int = 20_000_000


@contextmanager
def open_store(
    dsn: str, mapping: Mapping, *, tenant: str, store_id: int, limits: Limits | None = None
) -> Iterator["StoreReader"]:
    """Yield a reader of one store; all it reads is one moment's state. Blocking.

    Raises:
        NotFoundError: The mapping knows one store only, and it is another.
        MappingMismatchError: Tables or columns of the mapping are not there.
        ShopUnavailableError: The database does not answer, or not in time.
    """
    mapping.check_store(store_id)
    bounds = limits or Limits()
    with translated_errors(), connect_shop(dsn, statement_timeout_s=bounds.timeout_s) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        yield StoreReader(connection, read_shape(connection, mapping), tenant, store_id, bounds)


class StoreReader:
    """Streams of one store. Use `open_store`."""

    def __init__(self, connection: psycopg.Connection[Any], shape: Shape, tenant: str, store_id: int, limits: Limits) -> None:
        self._connection = connection
        self._shape = shape
        self._limits = limits
        self._deadline_s = time.monotonic() + limits.timeout_s
        weights = shape.mapping.weights
        self._values: dict[str, Any] = {
            "tenant": tenant,
            "store": store_id,
            "timezone": shape.mapping.timezone,
            "ignored": [status.lower() for status in shape.mapping.ignored_order_statuses],
            "order_weight": weights.order,
            "cart_weight": weights.cart,
        }

    def interactions(self) -> Interactions:
        """Return orders and carts as weighted events, in no order.

        Raises:
            TooMuchDataError: There are more events than allowed.
        """
        statements = [queries.order_events(self._shape), queries.cart_events(self._shape)]
        columns = self._collect([statement for statement in statements if statement is not None])
        return _events(columns)

    def purchases(self) -> Interactions:
        """Return orders as events sorted by customer, time and line; the items of one order have the same time.

        Raises:
            TooMuchDataError: There are more events than allowed.
        """
        columns = self._collect([queries.order_events(self._shape)])
        users, _, _, times, lines = columns
        order = np.lexsort((lines, times, users))
        return _events([column[order] for column in columns])

    def sales(self, period: Period, *, now_s: int | None = None) -> Sales:
        """Return units sold by variant and complete period, oldest first.

        Args:
            period: What one row covers.
            now_s: Unix seconds; sales after it, which a wrong clock makes, do not count.
        """
        statement = queries.sales(self._shape)
        values = {"day_periods": period == "day"}
        variants, items, days, units, prices = self._collect([statement], values, types=_SALES_TYPES)
        numbers = np.asarray(period_of_day(days.astype(np.int64), period))
        now = now_s if now_s is not None else int(time.time())
        last = last_complete(self._newest_order_s(now), now, period, self._shape.mapping.timezone)
        keep = numbers <= last
        return Sales(
            variants[keep].astype(np.int64),
            items[keep].astype(np.int64),
            numbers[keep],
            units[keep],
            prices[keep],
            period,
            last,
        )

    def _newest_order_s(self, now_s: int) -> int:
        row = self._connection.execute(queries.newest_order(self._shape), self._values | {"now": now_s}).fetchone()
        return int(row[0]) if row is not None and row[0] is not None else 0

    def _collect(
        self,
        statements: Sequence[Composed],
        values: Dictionary[str, Any] | None = None,
        types: Sequence[type] = (np.int64, np.int64, np.float32, np.int64, np.int64),
    ) -> list[NDArray[Any]]:
        parts: list[list[NDArray[Any]]] = [[np.empty(0, kind)] for kind in types]
        count = 0
        for batch in itertools.chain.from_iterable(self._stream(statement, values or {}) for statement in statements):
            count += len(batch)
            if count > self._limits.max_events:
                raise TooMuchDataError(
                    f"Store {self._values['store']} has more than {self._limits.max_events} events. Raise RECSYS_MAX_EVENTS "
                    "if the memory allows it, or point the mapping at a view with recent orders only."
                )
            for part, column, kind in zip(parts, zip(*batch, strict=True), types, strict=True):
                part.append(_to_array(column, kind))
        return [np.concatenate(part) for part in parts]

    def _stream(self, statement: Composed, values: Dictionary[str, Any]) -> Iterator[list[tuple[Any, ...]]]:
        with self._connection.cursor(name="aihub_extraction", binary=True) as cursor:
            cursor.execute(statement, self._values | dict(values))
            while batch := cursor.fetchmany(BATCH_ROWS):
                if time.monotonic() > self._deadline_s:
                    raise ShopUnavailableError(
                        f"Reading store {self._values['store']} took longer than {self._limits.timeout_s:.0f} s. "
                        "Add indexes to the shop's tables, or raise RECSYS_EXTRACTION_TIMEOUT_S."
                    )
                yield batch


_SALES_TYPES = (np.int64, np.int64, np.int64, np.float64, np.float64)


def _to_array(column: Sequence[Any], kind: type) -> NDArray[Any]:
    if kind is np.float64:
        return np.array([np.nan if value is None else value for value in column], np.float64)
    try:
        return np.array(column, kind)
    except (TypeError, OverflowError) as error:
        raise InvalidRequestError(
            "A row of the shop has no product, or an id that is no 64-bit number. Correct the data."
        ) from error


def _events(columns: Sequence[NDArray[Any]]) -> Interactions:
    users, items, weights, times, _ = columns
    interactions, _ = Interactions.clean(users, items, weights, times, now_s=int(time.time()))
    return interactions


def last_complete(newest_order_s: int, now_s: int, period: Period, timezone: str) -> int:
    """Return the newest period that is over by the clock and by the orders (a stopped feed leaves its last week half full)."""
    today, newest = (_local_day(moment, timezone) for moment in (now_s, newest_order_s))
    by_clock = int(period_of_day(today, period)) - 1
    by_orders = newest if period == "day" else int(period_of_day(newest + 1 + _QUIET_DAYS, period)) - 1
    return min(by_clock, by_orders)


def _local_day(moment_s: int, timezone: str) -> int:
    """Days since 1970-01-01 on the shop's calendar."""
    return datetime.fromtimestamp(moment_s, ZoneInfo(timezone)).date().toordinal() - _EPOCH_ORDINAL
