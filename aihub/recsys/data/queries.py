"""The statements that read a shop, composed from checked names; every value travels as a parameter.

Parameters of all: `tenant`, `store`, `timezone`, `ignored`, `order_weight`, `cart_weight`, `day_periods`.
"""

from psycopg.sql import SQL, Composable, Composed, Identifier

from aihub.recsys.data.shape import Shape

_TRUE = SQL("true")


def order_events(shape: Shape) -> Composed:
    """Lines of counted orders with a customer: customer, product, weight, unix seconds, line."""
    return SQL(
        "SELECT {customer}::bigint, {product}::bigint, %(order_weight)s::real, {time}, {line}::bigint FROM {lines} "
        "WHERE {customer} IS NOT NULL AND {counts}"
    ).format(
        customer=_column(shape, "orders", "customer_id"),
        product=_column(shape, "variants", "product_id"),
        time=_unix_s(shape, "orders", "ordered_at"),
        line=_column(shape, "order_items", "id") if shape.has("order_items", "id") else _column(shape, "orders", "id"),
        lines=_order_lines(shape),
        counts=_counts(shape),
    )


def cart_events(shape: Shape) -> Composed | None:
    """Lines of carts: customer, product, weight, unix seconds, 0; None for a shop without carts."""
    if "cart_items" not in shape.schemas:
        return None
    return SQL(
        "SELECT {customer}::bigint, {product}::bigint, %(cart_weight)s::real, {time}, 0::bigint "
        "FROM {carts} AS cart_items JOIN {variants} AS variants ON {same_variant} "
        "WHERE {customer} IS NOT NULL AND {time} IS NOT NULL AND {scope}"
    ).format(
        customer=_column(shape, "cart_items", "customer_id"),
        product=_column(shape, "variants", "product_id"),
        time=_unix_s(shape, "cart_items", "added_at"),
        carts=_table(shape, "cart_items"),
        variants=_table(shape, "variants"),
        same_variant=_join(shape, "cart_items", "variant_id", "variants", "id"),
        scope=_scope(shape, "cart_items"),
    )


def sales(shape: Shape) -> Composed:
    """Units by variant and day or week: variant, product, days since 1970-01-01 of the period's first day, units, mean price."""
    local = _local_time(shape, "orders", "ordered_at")
    period = SQL("(date_trunc(CASE WHEN %(day_periods)s THEN 'day' ELSE 'week' END, {time})::date - DATE '1970-01-01')").format(
        time=local
    )
    quantity = _quantity(shape)
    price: Composable = SQL("NULL::double precision")
    if shape.has("order_items", "unit_price"):
        price = SQL("(sum({price} * {quantity}) / nullif(sum({quantity}), 0))::double precision").format(
            price=_column(shape, "order_items", "unit_price"), quantity=quantity
        )
    return SQL(
        "SELECT {variant}::bigint, {product}::bigint, {period}::bigint, sum({quantity})::double precision, {price} "
        "FROM {lines} WHERE {counts} AND {quantity} > 0 GROUP BY 1, 2, 3 ORDER BY 3, 1"
    ).format(
        variant=_column(shape, "variants", "id"),
        product=_column(shape, "variants", "product_id"),
        period=period,
        quantity=quantity,
        price=price,
        lines=_order_lines(shape),
        counts=_counts(shape),
    )


def newest_order(shape: Shape) -> Composed:
    """Unix seconds of the newest counted order up to `%(now)s`."""
    time = _unix_s(shape, "orders", "ordered_at")
    return SQL("SELECT max({time}) FROM {orders} AS orders WHERE {time} <= %(now)s AND {counts}").format(
        time=time, orders=_table(shape, "orders"), counts=_counts(shape)
    )


def on_sale(shape: Shape) -> Composed:
    """Of the products `%(items)s`, those that can be sold and that `%(user)s` has not bought: product, its first variant.

    With a null `user` nothing counts as bought.
    """
    return SQL(
        "SELECT {product}::bigint, min({variant})::bigint FROM {variants} AS variants JOIN {products} AS products ON {same} "
        "WHERE {product} = ANY(%(items)s::bigint[]) AND {can_be_sold} AND {scope} "
        "AND (%(user)s::bigint IS NULL OR NOT EXISTS ({bought})) "
        "GROUP BY 1"
    ).format(
        product=_column(shape, "variants", "product_id"),
        variant=_column(shape, "variants", "id"),
        variants=_table(shape, "variants"),
        products=_table(shape, "products"),
        same=_join(shape, "variants", "product_id", "products", "id"),
        can_be_sold=_can_be_sold(shape),
        scope=_scope(shape, "variants"),
        bought=_bought(shape, _column(shape, "variants", "product_id")),
    )


def variants_on_sale(shape: Shape) -> Composed:
    """Of the variants `%(variants)s`, those that can be sold: variant, product."""
    return SQL(
        "SELECT {variant}::bigint, {product}::bigint FROM {variants} AS variants JOIN {products} AS products ON {same} "
        "WHERE {variant} = ANY(%(variants)s::bigint[]) AND {can_be_sold} AND {scope}"
    ).format(
        product=_column(shape, "variants", "product_id"),
        variant=_column(shape, "variants", "id"),
        variants=_table(shape, "variants"),
        products=_table(shape, "products"),
        same=_join(shape, "variants", "product_id", "products", "id"),
        can_be_sold=_can_be_sold(shape),
        scope=_scope(shape, "variants"),
    )


def bought_items(shape: Shape) -> Composed:
    """The products `%(user)s` has bought."""
    return SQL("SELECT DISTINCT {product}::bigint FROM {lines} WHERE {customer} = %(user)s AND {counts}").format(
        product=_column(shape, "variants", "product_id"),
        customer=_column(shape, "orders", "customer_id"),
        lines=_order_lines(shape),
        counts=_counts(shape),
    )


def _bought(shape: Shape, product: Composable) -> Composed:
    """Whether the customer has an order with the product; the inner tables hide the outer ones, so those are renamed."""
    return SQL(
        "SELECT 1 FROM {orders} AS o JOIN {items} AS oi ON {same_order} JOIN {variants} AS v ON {same_variant} "
        "WHERE {customer} = %(user)s AND {bought_product} = {product} AND {counts}"
    ).format(
        orders=_table(shape, "orders"),
        items=_table(shape, "order_items"),
        variants=_table(shape, "variants"),
        same_order=_join(shape, "order_items", "order_id", "orders", "id", alias="oi", other_alias="o"),
        same_variant=_join(shape, "order_items", "variant_id", "variants", "id", alias="oi", other_alias="v"),
        customer=_column(shape, "orders", "customer_id", alias="o"),
        bought_product=_column(shape, "variants", "product_id", alias="v"),
        product=product,
        counts=_counts(shape, alias="o"),
    )


def _order_lines(shape: Shape) -> Composed:
    return SQL(
        "{orders} AS orders JOIN {items} AS order_items ON {same_order} JOIN {variants} AS variants ON {same_variant}"
    ).format(
        orders=_table(shape, "orders"),
        items=_table(shape, "order_items"),
        variants=_table(shape, "variants"),
        same_order=_join(shape, "order_items", "order_id", "orders", "id"),
        same_variant=_join(shape, "order_items", "variant_id", "variants", "id"),
    )


def _counts(shape: Shape, alias: str = "orders") -> Composable:
    """Orders of the store that have a time and are not cancelled."""
    conditions: list[Composable] = [
        SQL("{} IS NOT NULL").format(_column(shape, "orders", "ordered_at", alias=alias)),
        _scope(shape, "orders", alias),
    ]
    if shape.has("orders", "status"):
        status = _column(shape, "orders", "status", alias=alias)
        conditions.append(SQL("({status} IS NULL OR lower({status}::text) <> ALL(%(ignored)s))").format(status=status))
    return SQL(" AND ").join(conditions)


def _can_be_sold(shape: Shape) -> Composable:
    conditions = [_is_there(shape, "products"), _is_there(shape, "variants")]
    if shape.has("variants", "stock"):
        conditions.append(SQL("coalesce({}, 1) > 0").format(_column(shape, "variants", "stock")))
    return SQL(" AND ").join(conditions)


def _is_there(shape: Shape, table: str) -> Composable:
    if not shape.has(table, "deleted_at"):
        return _TRUE
    column = _column(shape, table, "deleted_at")
    is_flag = shape.types[table, "deleted_at"] == "boolean"
    return SQL("{} IS NOT TRUE" if is_flag else "{} IS NULL").format(column)


def _quantity(shape: Shape) -> Composable:
    return _column(shape, "order_items", "quantity") if shape.has("order_items", "quantity") else SQL("1")


def _unix_s(shape: Shape, table: str, name: str) -> Composable:
    column = _column(shape, table, name)
    kind = shape.types[table, name]
    if kind in {"bigint", "integer"}:
        return SQL("{}::bigint").format(column)
    if kind == "timestamp with time zone":
        return SQL("floor(extract(epoch FROM {}))::bigint").format(column)
    return SQL("floor(extract(epoch FROM {}::timestamp AT TIME ZONE %(timezone)s))::bigint").format(column)


def _local_time(shape: Shape, table: str, name: str) -> Composable:
    """A moment on the shop's clock."""
    column = _column(shape, table, name)
    kind = shape.types[table, name]
    if kind in {"bigint", "integer"}:
        return SQL("(to_timestamp({}) AT TIME ZONE %(timezone)s)").format(column)
    if kind == "timestamp with time zone":
        return SQL("({} AT TIME ZONE %(timezone)s)").format(column)
    return SQL("{}::timestamp").format(column)


def _scope(shape: Shape, table: str, alias: str | None = None) -> Composable:
    """Rows of the tenant and the store, as far as the table knows them."""
    conditions: list[Composable] = []
    if shape.has(table, "tenant_id"):
        conditions.append(SQL("{} = %(tenant)s").format(_column(shape, table, "tenant_id", alias=alias)))
    if shape.has(table, "store_id"):
        conditions.append(SQL("{} = %(store)s").format(_column(shape, table, "store_id", alias=alias)))
    return SQL(" AND ").join(conditions) if conditions else _TRUE


def _join(
    shape: Shape, table: str, name: str, other: str, other_name: str, *, alias: str | None = None, other_alias: str | None = None
) -> Composable:
    """Same id, and the same tenant and store where both tables say theirs: ids of two stores may be equal."""
    conditions = [
        SQL("{} = {}").format(_column(shape, table, name, alias=alias), _column(shape, other, other_name, alias=other_alias))
    ]
    for scope in ("tenant_id", "store_id"):
        if shape.has(table, scope) and shape.has(other, scope):
            ours, theirs = _column(shape, table, scope, alias=alias), _column(shape, other, scope, alias=other_alias)
            conditions.append(SQL("{} = {}").format(ours, theirs))
    return SQL(" AND ").join(conditions)


def _table(shape: Shape, table: str) -> Identifier:
    return Identifier(shape.schemas[table], shape.mapping.tables.named()[table].table_name)


def _column(shape: Shape, table: str, name: str, *, alias: str | None = None) -> Identifier:
    return Identifier(alias or table, shape.mapping.tables.named()[table].named_columns()[name])
