import time
from contextlib import AbstractContextManager

import numpy as np
import psycopg
import pytest
import yaml

from aihub.core.errors import HubError, NotFoundError
from aihub.recsys.data.connections import MappingMismatchError, ShopUnavailableError, TooMuchDataError
from aihub.recsys.data.extraction import Limits, StoreReader, last_complete, open_store
from aihub.recsys.data.mapping import MAPPING_PATH, Mapping, load_mapping
from tests.external_servers import free_port
from tests.unit.recsys.shop_parts import DAY_S, MONDAY_S, Shop, iso, source

NOW_S = int(time.time())


def reader(shop: Shop, *, store_id: int = 1, limits: Limits | None = None) -> AbstractContextManager[StoreReader]:
    return open_store(shop.dsn, load_mapping(), tenant=shop.tenant, store_id=store_id, limits=limits)


def filled(shop: Shop) -> Shop:
    shop.catalogue()
    shop.customers(7, 8)
    shop.order(7, MONDAY_S, 11, 21)
    shop.order(7, MONDAY_S + DAY_S, 31)
    shop.order(8, MONDAY_S + 8 * DAY_S, 12, quantity=4)
    return shop


def test_orders_and_carts_become_weighted_events(shop: Shop) -> None:
    filled(shop).load(cart_items=source(("id", "customer_id", "variant_id", "added_at"), (1, 8, 52, iso(MONDAY_S))))
    with reader(shop) as store:
        events = store.interactions()
    rows = sorted(zip(events.user_ids.tolist(), events.item_ids.tolist(), events.weights.tolist(), strict=True))
    assert rows == [(7, 1, 1.0), (7, 2, 1.0), (7, 3, 1.0), (8, 1, 1.0), (8, 5, pytest.approx(0.3))]
    assert events.times.min() == MONDAY_S


def test_cancelled_orders_and_orders_without_a_customer_are_no_events(shop: Shop) -> None:
    filled(shop)
    shop.order(7, MONDAY_S, 51, status="Cancelled")
    shop.order(None, MONDAY_S, 41)
    with reader(shop) as store:
        assert set(store.interactions().item_ids.tolist()) == {1, 2, 3}


def test_other_stores_and_tenants_stay_out_even_with_the_same_ids(shop: Shop) -> None:
    filled(shop)
    shop.catalogue(store_id=2)
    shop.customers(7, store_id=2)
    shop.order(7, MONDAY_S, 51, store_id=2)
    with reader(shop) as store, reader(shop, store_id=2) as other:
        assert len(store.interactions()) == 4
        assert other.interactions().item_ids.tolist() == [5]
    with open_store(shop.dsn, load_mapping(), tenant="nobody", store_id=1) as stranger:
        assert len(stranger.interactions()) == 0


def test_purchases_come_in_the_order_of_time_and_line(shop: Shop) -> None:
    shop.catalogue()
    shop.customers(1, 2)
    shop.order(2, MONDAY_S, 11)
    shop.order(1, MONDAY_S + DAY_S, 21)
    shop.order(1, MONDAY_S, 51, 31, 41)
    with reader(shop) as store:
        events = store.purchases()
    assert events.user_ids.tolist() == [1, 1, 1, 1, 2]
    assert events.item_ids.tolist() == [5, 3, 4, 2, 1]


def test_future_times_are_now(shop: Shop) -> None:
    shop.catalogue()
    shop.customers(1)
    shop.order(1, NOW_S + 400 * DAY_S, 11)
    with reader(shop) as store:
        assert store.interactions().times.max() <= time.time()


def test_sales_are_summed_by_week_and_day(shop: Shop) -> None:
    filled(shop)
    shop.order(None, MONDAY_S + 6 * DAY_S + DAY_S - 1, 12, quantity=2)  # the last second of Sunday, by a guest
    shop.order(None, MONDAY_S + 20 * DAY_S, 11)
    with reader(shop) as store:
        weekly = store.sales("week", now_s=MONDAY_S + 28 * DAY_S)
        daily = store.sales("day", now_s=MONDAY_S + 28 * DAY_S)
    first = weekly.last_period - 2
    rows = list(zip(weekly.variant_ids.tolist(), (weekly.periods - first).tolist(), weekly.units.tolist(), strict=True))
    assert rows == [(11, 0, 1.0), (12, 0, 2.0), (21, 0, 1.0), (31, 0, 1.0), (12, 1, 4.0), (11, 2, 1.0)]
    assert weekly.item_ids.tolist() == [1, 1, 2, 3, 1, 1]
    assert weekly.prices.tolist() == [9.5] * 6
    assert daily.periods.tolist() == [MONDAY_S // DAY_S + day for day in (0, 0, 1, 6, 8, 20)]


def test_days_begin_at_the_shops_midnight(shop: Shop) -> None:
    shop.catalogue()
    shop.order(None, MONDAY_S + 20 * 3600, 11)  # 03:00 on Tuesday in Việt Nam
    shop.order(None, MONDAY_S + 20 * DAY_S, 11)
    mapping = load_mapping().model_copy(update={"timezone": "Asia/Ho_Chi_Minh"})
    with open_store(shop.dsn, mapping, tenant=shop.tenant, store_id=1) as store:
        assert store.sales("day").periods[0] == MONDAY_S // DAY_S + 1


@pytest.mark.parametrize(
    ("newest_day", "now_day", "complete_weeks"),
    [(6, 7, 1), (4, 7, 1), (3, 7, 0), (6, 6, 0), (13, 13, 1), (13, 30, 2), (6, 300, 1)],
)
def test_half_a_week_never_counts_as_a_week(newest_day: int, now_day: int, complete_weeks: int) -> None:
    first = last_complete(MONDAY_S + 6 * DAY_S, MONDAY_S + 7 * DAY_S, "week", "UTC")
    found = last_complete(MONDAY_S + newest_day * DAY_S, MONDAY_S + now_day * DAY_S, "week", "UTC")
    assert found - first + 1 == complete_weeks


def test_empty_store_gives_empty_arrays(shop: Shop) -> None:
    with reader(shop) as store:
        assert len(store.interactions()) == len(store.purchases()) == len(store.sales("week")) == 0


def test_reading_can_change_nothing(shop: Shop) -> None:
    with pytest.raises(HubError, match="read-only"), reader(shop) as store:
        store._connection.execute("DELETE FROM stores")


def test_more_events_than_allowed_are_refused(shop: Shop) -> None:
    filled(shop)
    with pytest.raises(TooMuchDataError, match="RECSYS_MAX_EVENTS"), reader(shop, limits=Limits(max_events=3)) as store:
        store.interactions()


def test_slow_database_is_given_up(shop: Shop) -> None:
    with pytest.raises(ShopUnavailableError, match="too long"), reader(shop, limits=Limits(timeout_s=0.2)) as store:
        store._connection.execute("SELECT pg_sleep(5)")


def test_absent_database_is_unavailable() -> None:
    dsn = f"postgresql://x@127.0.0.1:{free_port()}/x"
    with pytest.raises(ShopUnavailableError), open_store(dsn, load_mapping(), tenant="t", store_id=1):
        pass


def test_shop_with_its_own_names_types_and_one_store_is_read(shop: Shop) -> None:
    with psycopg.connect(shop.dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS legacy_shop")
        connection.execute('CREATE TABLE legacy_shop."SanPham" (ma int, an boolean)')
        connection.execute("CREATE TABLE legacy_shop.don (so int, khach int, luc bigint)")
        connection.execute("CREATE TABLE legacy_shop.dong (don int, sp smallint)")
        try:
            connection.execute('INSERT INTO legacy_shop."SanPham" VALUES (1, false), (2, true)')
            connection.execute("INSERT INTO legacy_shop.don VALUES (1, 9, %s), (2, null, %s)", (MONDAY_S, MONDAY_S + DAY_S * 9))
            connection.execute("INSERT INTO legacy_shop.dong VALUES (1, 1), (1, 2), (2, 2)")
            with open_store(shop.dsn, own_names(), tenant="x", store_id=3) as store:
                events, sales = store.purchases(), store.sales("day")
            with (
                pytest.raises(NotFoundError, match="knows store 3 only"),
                open_store(shop.dsn, own_names(), tenant="x", store_id=1),
            ):
                pass
        finally:
            connection.execute("DROP SCHEMA legacy_shop CASCADE")
    assert events.item_ids.tolist() == [1, 2]
    assert events.times.tolist() == [MONDAY_S] * 2
    assert sales.units.tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(sales.prices).all()


def own_names() -> Mapping:
    product = {"table": "legacy_shop.SanPham", "columns": {"id": "ma", "deleted_at": "an"}}
    return Mapping.model_validate(
        {
            "single_store_id": 3,
            "tables": {
                "products": product,
                "variants": {"table": "legacy_shop.SanPham", "columns": {"id": "ma", "product_id": "ma"}},
                "orders": {"table": "legacy_shop.don", "columns": {"id": "so", "customer_id": "khach", "ordered_at": "luc"}},
                "order_items": {"table": "legacy_shop.dong", "columns": {"order_id": "don", "variant_id": "sp"}},
            },
        }
    )


def test_mapping_that_does_not_fit_is_told_before_anything_is_read(shop: Shop) -> None:
    data = yaml.safe_load(MAPPING_PATH.read_text(encoding="utf-8"))
    data["tables"]["orders"]["table"] = "don_hang"
    with pytest.raises(MappingMismatchError, match="don_hang"):
        open_store(shop.dsn, Mapping.model_validate(data), tenant="t", store_id=1).__enter__()
