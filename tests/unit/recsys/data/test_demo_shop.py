import lzma
from datetime import datetime
from pathlib import Path

import pytest

from aihub.core.errors import InvalidRequestError
from aihub.recsys.data.demo_shop import load_demo_shop, make_up_shop, read_online_retail
from aihub.recsys.data.extraction import open_store
from aihub.recsys.data.mapping import load_mapping
from tests.unit.recsys.shop_parts import Shop

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
ROWS = (
    "536365,85123A,WHITE HEART,6,2010-12-01 08:26,2.55,17850,United Kingdom\n"
    "536365,85123b,RED HEART,2,2010-12-01 08:26,2.55,17850,United Kingdom\n"
    "C536379,85123A,WHITE HEART,-1,2010-12-01 09:41,2.55,17850,United Kingdom\n"
    "536370,POST,POSTAGE,3,2010-12-01 08:45,18,12583,France\n"
    "536371,22086,PAPER CHAIN,80,2010-12-01 09:00,2.55,,United Kingdom\n"
    "541431,23166,JAR,74215,2011-01-18 10:01,1.04,12346,United Kingdom\n"
)


def invoices(tmp_path: Path, rows: str = ROWS) -> Path:
    path = tmp_path / "online_retail.csv.xz"
    path.write_bytes(lzma.compress((HEADER + rows).encode()))
    return path


def test_goods_are_read_and_everything_else_is_left_out(tmp_path: Path) -> None:
    shop = read_online_retail(invoices(tmp_path))
    assert shop.products == {85123: "WHITE HEART", 22086: "PAPER CHAIN"}
    assert {sku for _, sku, _ in shop.variants.values()} == {"85123A", "85123B", "22086"}
    assert shop.orders[536371][0] is None
    assert [line[2] for line in shop.lines] == [6, 2, 80]


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="no table of invoices"):
        read_online_retail(path)


def test_made_up_shop_is_the_same_each_time_but_for_its_dates() -> None:
    first, second = make_up_shop(), make_up_shop()
    assert first.lines == second.lines
    assert len(first.lines) > 10_000
    assert max(moment for _, moment in first.orders.values()) <= datetime.now().astimezone()


@pytest.mark.parametrize("has_file", [True, False])
def test_store_is_filled_from_the_file_or_made_up_without_it(shop: Shop, tmp_path: Path, has_file: bool) -> None:
    path = invoices(tmp_path) if has_file else tmp_path / "none.csv.xz"
    counts = load_demo_shop(shop.dsn, path, store_id=1, tenant=shop.tenant)
    if has_file:
        assert load_demo_shop(shop.dsn, path, store_id=1, tenant=shop.tenant) == counts
    with open_store(shop.dsn, load_mapping(), tenant=shop.tenant, store_id=1) as store:
        events = store.interactions()
        assert len(store.sales("day")) > 0
    assert len(events) >= (2 if has_file else 10_000)
