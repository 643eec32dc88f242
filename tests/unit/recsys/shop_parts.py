"""A small shop in the session's PostgreSQL."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg

from aihub.recsys.data.import_csv import CsvSource, import_sources

MONDAY_S = 1_767_571_200
"""2026-01-05 00:00 UTC."""
DAY_S = 86_400


def source(columns: Sequence[str], *rows: Sequence[Any]) -> CsvSource:
    text = "".join(",".join("" if value is None else str(value) for value in row) + "\n" for row in rows)
    return CsvSource("test.csv", tuple(columns), lambda: iter([text.encode()]), len(text))


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


class Shop:
    """Tables of one tenant's store 1, filled as a test needs."""

    def __init__(self, dsn: str, tenant: str) -> None:
        self.dsn = dsn
        self.tenant = tenant
        self._order = 0
        self._line = 0

    def catalogue(self, products: int = 5, *, store_id: int = 1) -> None:
        """Products 1.. with variants 10*p+1 and 10*p+2, all in stock."""
        self.load(
            store_id=store_id,
            products=source(("id", "name"), *((number, f"Áo {number}") for number in range(1, products + 1))),
            variants=source(
                ("id", "product_id", "sku", "price", "stock"),
                *((10 * p + v, p, f"A{p}-{v}", 9.5, 3) for p in range(1, products + 1) for v in (1, 2)),
            ),
        )

    def customers(self, *ids: int, store_id: int = 1) -> None:
        self.load(store_id=store_id, customers=source(("id",), *((number,) for number in ids)))

    def order(
        self, customer: int | None, time_s: int, *variants: int, status: str = "completed", quantity: int = 1, store_id: int = 1
    ) -> None:
        self._order += 1
        lines = []
        for variant in variants:
            self._line += 1
            lines.append((self._line, self._order, variant, quantity, 9.5))
        self.load(
            store_id=store_id,
            orders=source(("id", "customer_id", "status", "ordered_at"), (self._order, customer, status, iso(time_s))),
            order_items=source(("id", "order_id", "variant_id", "quantity", "unit_price"), *lines),
        )

    def load(self, *, store_id: int = 1, **tables: CsvSource) -> dict[str, int]:
        return import_sources(self.dsn, tables, store_id=store_id, tenant=self.tenant)

    def run(self, statement: str, **values: Any) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement, {"tenant": self.tenant} | values)

    def delete_product(self, product: int) -> None:
        self.run("UPDATE products SET deleted_at = now() WHERE tenant_id = %(tenant)s AND id = %(id)s", id=product)

    def set_stock(self, variant: int, stock: int | None) -> None:
        self.run("UPDATE variants SET stock = %(stock)s WHERE tenant_id = %(tenant)s AND id = %(id)s", id=variant, stock=stock)

    def remove(self) -> None:
        for table in ("stores", "ai_training_log", "store_ai_status"):
            self.run(f"DELETE FROM {table} WHERE tenant_id = %(tenant)s")  # noqa: S608 - constants above
