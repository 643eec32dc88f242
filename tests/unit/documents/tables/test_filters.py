"""The SQL of filters against a plain Python reading of their meaning, on many random trees."""

import operator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import Connection, connect, sql
from psycopg.types.json import Jsonb

from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import InvalidRequestError
from aihub.documents.tables.filters import compile_filter

KEYS = st.sampled_from(["năm", "loại", 'a"b', "a'; DROP TABLE files; --", "%s", "{}"])
TEXTS = st.sampled_from(["luật", "Luật", "2024-01-02", "2024-01-10", "", "10", "9", "'", "%s"])
NUMBERS = st.sampled_from([0, 1, 2024, -3, 1.0, 1.5, 2**53, 2**63 - 1])
SCALARS = TEXTS | NUMBERS | st.booleans()
ATTRIBUTES = st.dictionaries(KEYS, SCALARS, max_size=4)
ORDER = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}

COMPARISONS = st.one_of(
    st.builds(lambda t, k, v: {"type": t, "key": k, "value": v}, st.sampled_from(["eq", "ne"]), KEYS, SCALARS),
    st.builds(lambda t, k, v: {"type": t, "key": k, "value": v}, st.sampled_from(list(ORDER)), KEYS, TEXTS | NUMBERS),
    st.builds(
        lambda t, k, v: {"type": t, "key": k, "value": v},
        st.sampled_from(["in", "nin"]),
        KEYS,
        st.lists(TEXTS | NUMBERS, min_size=1, max_size=3),
    ),
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.builds(
        lambda t, f: {"type": t, "filters": f}, st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


def same(left: object, right: object) -> bool:
    """JSON equality: 1 and 1.0 are one number, true is no number."""
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def matches(tree: dict[str, Any], attributes: dict[str, Any]) -> bool:
    kind = tree["type"]
    if kind in {"and", "or"}:
        results = [matches(child, attributes) for child in tree["filters"]]
        return all(results) if kind == "and" else any(results)
    has, value, wanted = tree["key"] in attributes, attributes.get(tree["key"]), tree["value"]
    if kind in {"eq", "ne"}:
        return (has and same(value, wanted)) == (kind == "eq")
    if kind in {"in", "nin"}:
        return (has and any(same(value, item) for item in wanted)) == (kind == "in")
    if not has or isinstance(value, bool) or isinstance(value, str) != isinstance(wanted, str):
        return False
    return bool(ORDER[kind](value, wanted))


@pytest.fixture(scope="module")
def connection(embedded_stores: StoreUrls) -> Any:
    with connect(embedded_stores.database_url, autocommit=True) as opened:
        yield opened


@given(tree=FILTERS, attributes=ATTRIBUTES)
@settings(max_examples=300, deadline=None)
def test_compiled_filter_means_what_the_tree_says(
    connection: Connection[Any], tree: dict[str, Any], attributes: dict[str, Any]
) -> None:
    condition, params = compile_filter(tree, sql.Identifier("attributes"))
    query = sql.SQL("SELECT count(*) FROM (SELECT %s::jsonb AS attributes) AS row WHERE {}").format(condition)
    row = connection.execute(query, [Jsonb(attributes), *params]).fetchone()
    assert row == (int(matches(tree, attributes)),)


def test_keys_and_values_are_parameters_only() -> None:
    key, value = "a'; DROP TABLE files; --", "x' OR 'a'='a"
    for tree in (
        {"type": "eq", "key": key, "value": value},
        {"type": "gt", "key": key, "value": value},
        {"type": "in", "key": key, "value": [value]},
        {"type": "or", "filters": [{"type": "ne", "key": key, "value": value}]},
    ):
        condition, _ = compile_filter(tree, sql.Identifier("attributes"))
        text = condition.as_string(None)
        assert "DROP" not in text
        assert "OR '" not in text


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"type": "eq"},
        {"type": "eq", "key": 1, "value": 1},
        {"type": "like", "key": "a", "value": "b"},
        {"type": "gt", "key": "a", "value": True},
        {"type": "gt", "key": "a", "value": [1]},
        {"type": "in", "key": "a", "value": "b"},
        {"type": "and", "filters": []},
        {"type": "and", "filters": "x"},
        {"type": "or", "filters": [1]},
        {"type": "eq); DROP TABLE files", "key": "a", "value": 1},
    ],
)
def test_what_is_no_filter_is_a_bad_request(tree: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        compile_filter(tree, sql.Identifier("attributes"))


def test_endless_nesting_is_a_bad_request() -> None:
    tree: dict[str, Any] = {"type": "eq", "key": "a", "value": 1}
    for _ in range(5000):
        tree = {"type": "and", "filters": [tree]}
    with pytest.raises(InvalidRequestError):
        compile_filter(tree, sql.Identifier("attributes"))
