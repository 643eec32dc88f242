"""A made-up shop of 100,000 items for the speed of recommendations, filled and trained with the hub's own code."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from tqdm import tqdm

from aihub.recsys.data.import_csv import CsvSource, import_sources
from aihub.recsys.data.mapping import MAPPING_PATH, load_mapping
from aihub.recsys.trainers import choose_trainer
from aihub.recsys.training import TrainingPlace, TrainingResult, train

STORE = 1
CUSTOMERS = 20_000
_GROUPS = 200
_ORDERS_PER_CUSTOMER = 5
_LINES_PER_ORDER = 5
_OUT_OF_STOCK_SHARE = 0.02


def fill(dsn: str, items: int) -> None:
    """Load catalogue and orders: customers buy within three groups of items, few items much; every item was bought."""
    random = np.random.default_rng(0)
    bought = _purchases(random, items)
    numbers = np.arange(len(bought))
    orders = len(bought) // _LINES_PER_ORDER
    start = datetime.now(UTC) - timedelta(days=300)
    in_stock = random.random(items) >= _OUT_OF_STOCK_SHARE
    owners = np.repeat(np.arange(CUSTOMERS), orders // CUSTOMERS)
    tables: dict[str, tuple[Sequence[str], Iterable[Sequence[Any]]]] = {
        "customers": (("id",), ((customer,) for customer in range(CUSTOMERS))),
        "products": (("id", "name"), ((item, f"Item {item}") for item in range(items))),
        "variants": (
            ("id", "product_id", "sku", "price", "stock"),
            ((item, item, f"SKU{item}", 10, 100 if in_stock[item] else 0) for item in range(items)),
        ),
        "orders": (
            ("id", "customer_id", "ordered_at"),
            ((order, owners[order], (start + timedelta(minutes=order)).isoformat()) for order in range(orders)),
        ),
        "order_items": (
            ("id", "order_id", "variant_id", "quantity"),
            zip(numbers, numbers // _LINES_PER_ORDER, bought, np.ones_like(bought), strict=True),
        ),
    }
    with tqdm(total=len(tables), desc="filling the shop", unit="table") as bar:
        for name, (columns, rows) in tables.items():
            import_sources(dsn, {name: _source(name, columns, rows)}, store_id=STORE)
            bar.update()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")  # now, and not in the middle of a measurement


def train_factors(dsn: str, home: Path) -> TrainingResult:
    """Fit and publish matrix factors of the size that the hub chooses for so many items."""
    place = TrainingPlace(hub_dsn=dsn, shop_dsn=dsn, mapping=load_mapping(MAPPING_PATH), home=home)
    with tqdm(desc="training", unit="%", total=100) as bar:

        def show(step: str, share: float) -> None:
            bar.set_description(step)
            bar.update(round(100 * share) - bar.n)

        parameters = {"model": "ials", "search": False, "time_limit_s": 120}
        return train(place, choose_trainer("recommendation"), STORE, "recommendation", parameters, progress=show)


def _purchases(random: np.random.Generator, items: int) -> NDArray[np.int64]:
    """Items bought, by customer: as many of each customer."""
    lines = _ORDERS_PER_CUSTOMER * _LINES_PER_ORDER
    size = items // _GROUPS
    tastes = random.integers(_GROUPS, size=(CUSTOMERS, 3))
    groups = tastes[np.arange(CUSTOMERS)[:, None], random.integers(3, size=(CUSTOMERS, lines))]
    places = np.minimum(random.pareto(0.8, size=groups.shape) * 8, size - 1).astype(np.int64)
    bought = groups * size + places
    # Every item once, so that the model knows all.
    once = random.permutation(items)[: CUSTOMERS * lines]
    bought.reshape(-1)[random.permutation(bought.size)[: len(once)]] = once
    flat: NDArray[np.int64] = bought.reshape(-1)
    return flat


def _source(name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> CsvSource:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode()
    return CsvSource(name, tuple(columns), lambda: iter([data]), len(data))
