"""A shop to try everything with: the invoices of an online retailer, or made-up ones where that file is missing."""

import csv
import io
import itertools
import lzma
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from aihub.core.errors import InvalidRequestError
from aihub.core.principal import DEFAULT_TENANT
from aihub.recsys.data.import_csv import FORMATS, CsvSource, import_sources
from aihub.recsys.results import Progress, ignore_progress

_LINES = 541_909
_STOCK_CODE = re.compile(r"^(\d{5})([A-Z]{0,2})$")
_CANCELLED_LATER = frozenset({"541431", "581483"})
"""Two giant orders that were cancelled at once."""
_OUT_OF_STOCK_SHARE = 0.01
_DELETED_SHARE = 0.005
_CARTS_SHARE = 0.2
_NAMES = ("Áo thun", "Váy hoa", "Quần jean", "Nón lá", "Giày vải", "Túi cói", "Khăn lụa", "Đèn lồng", "Tách trà", "Nến thơm")


@dataclass(slots=True)
class DemoShop:
    """Rows of each table, in the columns of `FORMATS` without the store."""

    products: dict[int, str] = field(default_factory=dict)
    variants: dict[int, tuple[int, str, float]] = field(default_factory=dict)
    orders: dict[int, tuple[int | None, datetime]] = field(default_factory=dict)
    lines: list[tuple[int, int, int, float]] = field(default_factory=list)

    def customers(self) -> list[int]:
        return sorted({customer for customer, _ in self.orders.values() if customer is not None})


def load_demo_shop(
    dsn: str, source: Path | None, *, store_id: int = 1, tenant: str = DEFAULT_TENANT, progress: Progress = ignore_progress
) -> dict[str, int]:
    """Fill a store; return the rows of each table. Blocking, some ten seconds.

    Args:
        dsn: The hub's database, migrated.
        source: `online_retail.csv` (also `.xz`) with InvoiceNo, StockCode, Description, Quantity, InvoiceDate, UnitPrice and
            CustomerID; a shop is made up when None or missing.
        store_id: Which store; its rows of the same ids are replaced.
        tenant: Owner of the store.
        progress: Called with the step and the share done.

    Raises:
        InvalidRequestError: The file is not such a table.
    """
    has_source = source is not None and source.is_file()
    shop = read_online_retail(source, progress) if source is not None and has_source else make_up_shop()
    tables = {name: _source_of(name, rows) for name, rows in _rows(shop).items()}
    return import_sources(dsn, tables, store_id=store_id, tenant=tenant, progress=progress)


def read_online_retail(path: Path, progress: Progress = ignore_progress) -> DemoShop:
    """Read the retailer's invoices: five digits of a stock code are the product, its letters the variant.

    Cancellations, corrections and lines that are no goods (postage, samples) are left out.
    """
    shop = DemoShop()
    try:
        with (
            lzma.open(path, "rt", encoding="utf-8", newline="")
            if path.suffix == ".xz"
            else path.open(encoding="utf-8", newline="") as file
        ):
            for number, row in enumerate(csv.DictReader(file)):
                if number % 50_000 == 0:
                    progress("reading invoices", min(1.0, number / _LINES))
                _take(shop, row)
    except (KeyError, ValueError, OSError, lzma.LZMAError) as error:
        raise InvalidRequestError(f"{path.name} is no table of invoices: {error!r}.") from error
    progress("reading invoices", 1.0)
    return shop


def _take(shop: DemoShop, row: dict[str, str]) -> None:
    invoice, code = row["InvoiceNo"], _STOCK_CODE.match(row["StockCode"].upper())
    quantity, price = int(row["Quantity"]), float(row["UnitPrice"])
    if not invoice.isdigit() or invoice in _CANCELLED_LATER or code is None or quantity <= 0 or price < 0:
        return
    product = int(code[1])
    # Letters as digits of base 27, so that the same code always is the same variant.
    variant = product * 1000 + sum((ord(letter) - 64) * 27**place for place, letter in enumerate(reversed(code[2])))
    shop.products.setdefault(product, row["Description"].strip() or code[0])
    shop.variants[variant] = (product, code[0], price)
    customer = int(row["CustomerID"]) if row["CustomerID"] else None
    shop.orders[int(invoice)] = (customer, datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC))
    shop.lines.append((int(invoice), variant, quantity, price))


def make_up_shop(seed: int = 7) -> DemoShop:
    """Make up a year of orders: 400 customers with tastes, 300 products with two variants each, seasons and trends."""
    random = np.random.default_rng(seed)
    shop = DemoShop()
    groups = len(_NAMES)
    for product in range(1, 301):
        shop.products[product] = f"{_NAMES[product % groups]} {product}"
        price = round(float(random.uniform(2, 60)), 2)
        for size in (1, 2):
            shop.variants[product * 10 + size] = (product, f"SP{product:03}-{size}", price)
    taste = random.dirichlet(np.full(groups, 0.3), size=400)
    appeal = random.zipf(1.6, size=300).clip(max=50).astype(float)
    start = datetime.now(UTC).replace(hour=9, minute=0, second=0, microsecond=0) - timedelta(days=364)
    order = 0
    for day in range(364):
        season = 1 + 0.4 * np.sin(2 * np.pi * (day / 364 + np.arange(groups) / groups))
        for customer in random.choice(400, size=random.poisson(12), replace=False):
            order += 1
            shop.orders[order] = (int(customer) + 1, start + timedelta(days=day, minutes=int(random.integers(0, 600))))
            weights = appeal * (taste[customer] * season)[(np.arange(300) + 1) % groups]
            chosen = random.choice(300, size=int(random.integers(1, 7)), replace=False, p=weights / weights.sum())
            for product in chosen + 1:
                variant = int(product) * 10 + int(random.integers(1, 3))
                shop.lines.append((order, variant, int(random.integers(1, 4)), shop.variants[variant][2]))
    return shop


def _rows(shop: DemoShop) -> dict[str, tuple[Sequence[str], Iterable[Sequence[Any]]]]:
    random = np.random.default_rng(1)
    products = sorted(shop.products)
    deleted = set(random.choice(products, size=max(1, int(len(products) * _DELETED_SHARE)), replace=False).tolist())
    empty = random.random(len(shop.variants)) < _OUT_OF_STOCK_SHARE
    now = datetime.now(UTC).isoformat()
    variants = sorted(shop.variants.items())
    orders = sorted(shop.orders.items())
    return {
        "customers": (("id",), ((customer,) for customer in shop.customers())),
        "products": (
            ("id", "name", "deleted_at"),
            ((product, shop.products[product], now if product in deleted else "") for product in products),
        ),
        "variants": (
            ("id", "product_id", "sku", "price", "stock"),
            (
                (variant, product, sku, price, 0 if is_empty else 100)
                for (variant, (product, sku, price)), is_empty in zip(variants, empty, strict=True)
            ),
        ),
        "orders": (
            ("id", "customer_id", "ordered_at"),
            ((number, customer if customer is not None else "", moment.isoformat()) for number, (customer, moment) in orders),
        ),
        "order_items": (
            ("id", "order_id", "variant_id", "quantity", "unit_price"),
            ((number, *line) for number, line in enumerate(shop.lines, start=1)),
        ),
        "cart_items": (("id", "customer_id", "variant_id", "added_at"), _carts(shop, random)),
    }


def _carts(shop: DemoShop, random: np.random.Generator) -> Iterator[tuple[int, int, int, str]]:
    """Two goods in the carts of some customers, put there after the last order."""
    newest = max(moment for _, moment in shop.orders.values()).isoformat()
    sold = [line[1] for line in shop.lines]
    customers = [customer for customer in shop.customers() if random.random() < _CARTS_SHARE]
    numbers = itertools.count(1)
    for customer in customers:
        for row in random.integers(0, len(sold), size=2):
            yield next(numbers), customer, sold[row], newest


def _source_of(table: str, content: tuple[Sequence[str], Iterable[Sequence[Any]]]) -> CsvSource:
    columns, rows = content
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    data = buffer.getvalue().encode()
    if not set(columns) <= set(FORMATS[table].columns):
        raise InvalidRequestError(f"The demo shop's {table} do not fit the import.")
    return CsvSource(f"demo {table}", tuple(columns), lambda: iter([data]), len(data))
