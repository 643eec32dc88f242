import gzip
import lzma
from pathlib import Path

import pytest

from aihub.core.errors import InvalidRequestError
from aihub.recsys.data.extraction import open_store
from aihub.recsys.data.import_csv import import_folder
from aihub.recsys.data.mapping import load_mapping
from tests.unit.recsys.shop_parts import Shop


def write_shop(folder: Path) -> None:
    (folder / "customers.csv").write_text("id\n1\n2\n", encoding="utf-8")
    (folder / "products.csv").write_text('id,name\n1,"Áo dài, lụa"\n2,Nón lá\n', encoding="utf-8-sig")
    (folder / "variants.csv").write_text("product_id,id,sku,stock,price\n1,11,A,5,9.5\n2,21,B,,\n", encoding="utf-8")
    (folder / "orders.csv.gz").write_bytes(gzip.compress(b"id,customer_id,ordered_at\n1,1,2026-01-05 10:00+07\n2,,2026-01-06\n"))
    (folder / "order_items.csv.xz").write_bytes(
        lzma.compress(b"id,order_id,variant_id,quantity,unit_price\n1,1,11,2,9.5\n2,1,21,1,\n3,2,21,1,3\n")
    )


def load(shop: Shop, folder: Path, store_id: int | None = 1) -> dict[str, int]:
    return import_folder(shop.dsn, folder, store_id=store_id, tenant=shop.tenant)


def test_plain_and_compressed_files_are_loaded_together(shop: Shop, tmp_path: Path) -> None:
    write_shop(tmp_path)
    counts = load(shop, tmp_path)
    assert counts == {"customers": 2, "products": 2, "variants": 2, "orders": 2, "order_items": 3}
    with open_store(shop.dsn, load_mapping(), tenant=shop.tenant, store_id=1) as store:
        assert sorted(store.interactions().item_ids.tolist()) == [1, 2]


def test_loading_again_replaces_rows_of_the_same_id(shop: Shop, tmp_path: Path) -> None:
    write_shop(tmp_path)
    load(shop, tmp_path)
    (tmp_path / "order_items.csv.xz").unlink()
    (tmp_path / "order_items.csv").write_text("id,order_id,variant_id,quantity\n2,1,11,1\n", encoding="utf-8")
    load(shop, tmp_path)
    with open_store(shop.dsn, load_mapping(), tenant=shop.tenant, store_id=1) as store:
        assert store.interactions().item_ids.tolist() == [1, 1]


def test_store_column_is_used_where_there_is_one(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "stores.csv").write_text("id,name\n4,Hà Nội\n", encoding="utf-8")
    (tmp_path / "customers.csv").write_text("store_id,id\n4,1\n", encoding="utf-8")
    assert load(shop, tmp_path, store_id=None) == {"stores": 1, "customers": 1}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("orders.csv", "id,ordered_at\n1,hôm qua\n", r"orders.csv: .*hôm qua.*line 1, column ordered_at.*Nothing was imported"),
        ("orders.csv", "id,ordered_at\n1\n", "orders.csv: missing data for column"),
        ("customers.csv", "id\n99999999999999999999\n", "out of range"),
        ("customers.csv", "id\nabc\n", "invalid input syntax for type bigint"),
        ("products.csv", "id,name\n1,a\n1,b\n", "a second time"),
        ("customers.csv", "id,secret\n1,2\n", "unknown: secret"),
        ("customers.csv", "", "Missing: id"),
        ("customers.csv", "id,id\n1,1\n", "must name the columns"),
        ("variants.csv", "id,product_id,sku\n1,77,x\n", "is not present in table"),
        ("order_items.csv", "id,order_id,variant_id,quantity\n1,1,1,-3\n", "violates check constraint"),
    ],
)
def test_wrong_file_is_refused_with_its_place(shop: Shop, tmp_path: Path, name: str, text: str, told: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InvalidRequestError, match=told):
        load(shop, tmp_path)


def test_bad_row_undoes_the_whole_import(shop: Shop, tmp_path: Path) -> None:
    write_shop(tmp_path)
    (tmp_path / "orders.csv.gz").write_bytes(gzip.compress(b"id,customer_id,ordered_at\n1,1,2026-13-45\n"))
    with pytest.raises(InvalidRequestError, match="orders.csv.gz"):
        load(shop, tmp_path)
    (tmp_path / "orders.csv.gz").unlink()
    (tmp_path / "order_items.csv.xz").unlink()
    with open_store(shop.dsn, load_mapping(), tenant=shop.tenant, store_id=1) as store:
        assert len(store.sales("day")) == 0


def test_other_encodings_and_damaged_archives_are_refused(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_bytes("id,name,\xe9\n1,x,y\n".encode("latin-1"))
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        load(shop, tmp_path)
    (tmp_path / "products.csv").write_bytes("id,name\n1,caf\xe9\n".encode("latin-1"))
    with pytest.raises(InvalidRequestError, match="encoding"):
        load(shop, tmp_path)
    (tmp_path / "products.csv").unlink()
    (tmp_path / "customers.csv.gz").write_bytes(gzip.compress(b"id\n1\n")[:-6])
    with pytest.raises(InvalidRequestError, match=r"customers.csv.gz cannot be read"):
        load(shop, tmp_path)


def test_folder_without_files_and_file_without_store_are_refused(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="has none of stores.csv"):
        load(shop, tmp_path)
    (tmp_path / "customers.csv").write_text("id\n1\n", encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="--store"):
        load(shop, tmp_path, store_id=None)
