"""`configs/recsys/mapping.yaml`: in which tables and columns a shop keeps what recommendations need."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

import yaml
from pydantic import Field, StringConstraints, ValidationError, model_validator

from aihub.core.errors import ConfigurationError, NotFoundError
from aihub.core.profiles import StrictModel

MAPPING_PATH = Path(__file__).resolve().parents[3] / "configs" / "recsys" / "mapping.yaml"

_NAME = r"[A-Za-z_][A-Za-z0-9_$]{0,62}"
ColumnName = Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
TableName = Annotated[str, StringConstraints(pattern=rf"^({_NAME}\.)?{_NAME}$")]
Weight = Annotated[float, Field(gt=0.0, le=100.0, allow_inf_nan=False)]

Kind = Literal["id", "time", "number", "text", "mark"]
"""What a column holds: whole numbers; a moment; any number; any text; anything (a value means yes)."""

COLUMN_KINDS: dict[str, Kind] = {
    "tenant_id": "text",
    "store_id": "id",
    "id": "id",
    "product_id": "id",
    "variant_id": "id",
    "order_id": "id",
    "customer_id": "id",
    "stock": "number",
    "quantity": "number",
    "unit_price": "number",
    "status": "text",
    "deleted_at": "mark",
    "ordered_at": "time",
    "added_at": "time",
}


class _Columns(StrictModel):
    tenant_id: ColumnName | None = None
    store_id: ColumnName | None = None


class ProductColumns(_Columns):
    id: ColumnName
    deleted_at: ColumnName | None = None


class VariantColumns(_Columns):
    id: ColumnName
    product_id: ColumnName
    stock: ColumnName | None = None
    deleted_at: ColumnName | None = None


class OrderColumns(_Columns):
    id: ColumnName
    customer_id: ColumnName
    status: ColumnName | None = None
    ordered_at: ColumnName


class OrderItemColumns(_Columns):
    id: ColumnName | None = None
    order_id: ColumnName
    variant_id: ColumnName
    quantity: ColumnName | None = None
    unit_price: ColumnName | None = None


class CartItemColumns(_Columns):
    customer_id: ColumnName
    variant_id: ColumnName
    added_at: ColumnName


class _Table(StrictModel):
    table: TableName
    columns: _Columns

    @property
    def schema_name(self) -> str | None:
        """The schema written before the table, if one is."""
        schema, dot, _ = self.table.rpartition(".")
        return schema if dot else None

    @property
    def table_name(self) -> str:
        return self.table.rpartition(".")[2]

    def named_columns(self) -> dict[str, str]:
        """The hub's name and the shop's of every column there is."""
        return {ours: theirs for ours, theirs in self.columns.model_dump().items() if theirs is not None}


class ProductTable(_Table):
    columns: ProductColumns


class VariantTable(_Table):
    columns: VariantColumns


class OrderTable(_Table):
    columns: OrderColumns


class OrderItemTable(_Table):
    columns: OrderItemColumns


class CartItemTable(_Table):
    columns: CartItemColumns


class ShopTables(StrictModel):
    """The five tables; a shop may have no carts."""

    products: ProductTable
    variants: VariantTable
    orders: OrderTable
    order_items: OrderItemTable
    cart_items: CartItemTable | None = None

    def named(self) -> dict[str, _Table]:
        """Every table there is, by the hub's name."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: table for name, table in found.items() if table is not None}


class EventWeights(StrictModel):
    order: Weight = 1.0
    cart: Weight = 0.3


class Mapping(StrictModel):
    """Where a shop's data lies.

    Attributes:
        timezone: IANA name; days and weeks of sales begin at its midnight.
        single_store_id: The store that rows without a store column belong to.
        ignored_order_statuses: Orders that do not count.
        weights: What an event tells about taste.
    """

    timezone: str = "UTC"
    single_store_id: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    ignored_order_statuses: tuple[str, ...] = ()
    weights: EventWeights = EventWeights()
    tables: ShopTables

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if self.timezone not in available_timezones():
            raise ValueError(f"timezone {self.timezone!r} is not known; write an IANA name such as Asia/Ho_Chi_Minh")
        without = [name for name, table in self.tables.named().items() if table.columns.store_id is None]
        if without and self.single_store_id is None:
            raise ValueError(f"{', '.join(without)} have no store_id column; set single_store_id to the shop's number")
        return self

    def check_store(self, store_id: int) -> None:
        """Raises: NotFoundError: The mapping knows one store only, and it is another one."""
        if self.single_store_id is not None and store_id != self.single_store_id:
            raise NotFoundError(
                f"There is no store {store_id}: configs/recsys/mapping.yaml knows store {self.single_store_id} only.",
                param="store_id",
                code="store_not_found",
            )


def load_mapping(path: Path = MAPPING_PATH) -> Mapping:
    """Read the mapping.

    Raises:
        ConfigurationError: The file is missing, no YAML, or a key or name is wrong; the message names each.
    """
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Mapping.model_validate(data)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}. Correct RECSYS_MAPPING.") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path.name} is not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {_wording(e)}" for e in error.errors())
        raise ConfigurationError(f"{path.name} is wrong: {problems}.") from error


def _wording(error: Any) -> str:
    if error["type"] == "string_pattern_mismatch":
        return f"{str(error['input'])[:80]!r} is no plain name (letters, digits, _ and $; expressions are not allowed)"
    return re.sub(r"^Value error, ", "", str(error["msg"]))
