import secrets
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import sql

from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import ConfigurationError, NotFoundError
from aihub.recsys.data.connections import MappingMismatchError
from aihub.recsys.data.mapping import MAPPING_PATH, Mapping, load_mapping
from aihub.recsys.data.shape import read_shape


def content() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(MAPPING_PATH.read_text(encoding="utf-8"))
    return data


def written(tmp_path: Path, data: Any) -> Path:
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    return path


def test_shipped_mapping_fits_the_hubs_own_tables(embedded_stores: StoreUrls) -> None:
    with psycopg.connect(embedded_stores.database_url) as connection:
        shape = read_shape(connection, load_mapping())
    assert shape.types["orders", "ordered_at"] == "timestamp with time zone"
    assert set(shape.schemas.values()) == {"public"}


@pytest.mark.parametrize(
    "name",
    ["id; DROP TABLE orders", 'id"', "lower(id)", "a b", "", "1id", "a.b.c", "x" * 64, "id\n", "mã_đơn", "*", "id--", None, 3],
)
def test_column_that_is_no_plain_name_is_refused(tmp_path: Path, name: Any) -> None:
    data = content()
    data["tables"]["orders"]["columns"]["id"] = name
    with pytest.raises(ConfigurationError, match=r"mapping.yaml is wrong: tables.orders.columns.id"):
        load_mapping(written(tmp_path, data))


@example("_")
@given(st.text(max_size=20))
def test_any_accepted_table_name_is_a_plain_name(name: str) -> None:
    data = content()
    data["tables"]["orders"]["table"] = name
    try:
        mapping = Mapping.model_validate(data)
    except ValueError:
        return
    assert all(sign.isalnum() or sign in "._$" for sign in mapping.tables.orders.table)


def test_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    data = content()
    data["tables"]["orders"]["columns"]["orderd_at"] = "x"
    with pytest.raises(ConfigurationError, match="orderd_at"):
        load_mapping(written(tmp_path, data))


@pytest.mark.parametrize(("key", "value"), [("timezone", "Mars/Base"), ("timezone", "../etc/passwd"), ("weights", {"order": 0})])
def test_wrong_value_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=key):
        load_mapping(written(tmp_path, content() | {key: value}))


def test_tables_without_a_store_need_the_single_store(tmp_path: Path) -> None:
    data = content()
    del data["tables"]["orders"]["columns"]["store_id"]
    with pytest.raises(ConfigurationError, match="single_store_id"):
        load_mapping(written(tmp_path, data))
    mapping = load_mapping(written(tmp_path, data | {"single_store_id": 4}))
    mapping.check_store(4)
    with pytest.raises(NotFoundError, match="knows store 4 only"):
        mapping.check_store(5)


def test_missing_file_and_broken_yaml_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="RECSYS_MAPPING"):
        load_mapping(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("tables: [", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        load_mapping(broken)


def test_misspelt_names_are_all_listed_with_the_closest_real_ones(embedded_stores: StoreUrls) -> None:
    data = content()
    data["tables"]["products"]["table"] = "product"
    data["tables"]["orders"]["columns"]["ordered_at"] = "orderedat"
    data["tables"]["order_items"]["columns"]["variant_id"] = "unit_price"
    with psycopg.connect(embedded_stores.database_url) as connection, pytest.raises(MappingMismatchError) as caught:
        read_shape(connection, Mapping.model_validate(data))
    message = caught.value.message
    assert "there is no table 'product'" in message
    assert "Did you mean 'products'?" in message
    assert "no column 'orderedat'. Did you mean 'ordered_at'?" in message
    assert "order_items.unit_price is numeric; it must be a whole number" in message


def test_tables_of_another_schema_are_found_by_their_full_name(embedded_stores: StoreUrls) -> None:
    schema = f"cửa_hàng_{secrets.token_hex(4)}".replace("ử", "u").replace("à", "a")
    data = content()
    data["tables"]["products"]["table"] = f"{schema}.hang"
    with psycopg.connect(embedded_stores.database_url) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        connection.execute(
            sql.SQL("CREATE TABLE {}.hang (tenant_id text, store_id int, id int, deleted_at boolean)").format(
                sql.Identifier(schema)
            )
        )
        shape = read_shape(connection, Mapping.model_validate(data))
        connection.rollback()
    assert shape.schemas["products"] == schema
    assert shape.types["products", "deleted_at"] == "boolean"
