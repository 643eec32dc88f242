"""What bodies of /v1/vector_stores may hold: bounds, strict types, ignored and refused extras."""

from typing import Any

import pytest
from pydantic import BaseModel

from aihub.core.errors import InvalidRequestError
from aihub.core.filters import filter_tree
from aihub.core.schemas import validate
from aihub.documents.schemas import FileFields, SearchRequest, VectorStoreCreate, VectorStoreFileCreate, VectorStoreFileUpdate

LEAF = {"type": "eq", "key": "năm", "value": 2024}


def nested(depth: int) -> dict[str, Any]:
    tree: dict[str, Any] = LEAF
    for _ in range(depth - 1):
        tree = {"type": "and", "filters": [tree]}
    return tree


def refusal(model: type[BaseModel], body: dict[str, Any]) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        validate(model, body)
    return caught.value


@pytest.mark.parametrize(
    "filters",
    [
        LEAF,
        nested(4),
        {"type": "in", "key": "a", "value": ["x", 1, 2.5]},
        {"type": "or", "filters": [LEAF, {"type": "ne", "key": "b", "value": True}]},
        {"type": "gte", "key": 'it\'s "a".key; --', "value": "O'Brien"},
        {"type": "and", "filters": [LEAF] * 49},
    ],
)
def test_good_filters_come_back_as_plain_json(filters: dict[str, Any]) -> None:
    request = validate(SearchRequest, {"query": "giá", "filters": filters})
    assert filter_tree(request.filters) == filters


@pytest.mark.parametrize(
    ("filters", "param"),
    [
        (nested(5), "filters"),
        ({"type": "and", "filters": [LEAF] * 50}, "filters"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "not", "filters": [LEAF]}, "filters.type"),
        ({"key": "a", "value": 1}, "filters.type"),
        ({"type": "eq", "key": "", "value": 1}, "filters.key"),
        ({"type": "eq", "key": "k" * 65, "value": 1}, "filters.key"),
        ({"type": "eq", "key": "a", "value": "v" * 513}, "filters.value"),
        ({"type": "eq", "key": "a", "value": None}, "filters.value"),
        ({"type": "eq", "key": "a", "value": float("nan")}, "filters.value"),
        ({"type": "eq", "key": "a", "value": {"$gt": 1}}, "filters.value"),
        ({"type": "eq", "key": "a", "value": [1]}, "filters"),
        ({"type": "in", "key": "a", "value": 1}, "filters"),
        ({"type": "in", "key": "a", "value": []}, "filters.value"),
        ({"type": "in", "key": "a", "value": [True]}, "filters.value"),
        ({"type": "in", "key": "a", "value": [1] * 101}, "filters.value"),
        ({"type": "gt", "key": "a", "value": True}, "filters"),
        ({"type": "eq", "key": "a", "value": 1, "sql": "1=1"}, "filters.sql"),
        ("năm = 2024", "filters"),
        ([LEAF], "filters"),
    ],
)
def test_bad_filters_are_refused_naming_the_place(filters: Any, param: str) -> None:
    assert refusal(SearchRequest, {"query": "giá", "filters": filters}).param == param


def test_huge_filter_tree_is_refused_without_validating_its_nodes() -> None:
    tree = {"type": "and", "filters": [{"type": "and", "filters": [{"type": "eq"}] * 1000}] * 40}
    assert "50 nodes" in refusal(SearchRequest, {"query": "a", "filters": tree}).message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": []}, "query"),
        ({"query": ["a"] * 9}, "query"),
        ({"query": "a" * 8193}, "query"),
        ({"query": 1}, "query"),
        ({"query": "a", "max_num_results": 0}, "max_num_results"),
        ({"query": "a", "max_num_results": 51}, "max_num_results"),
        ({"query": "a", "max_num_results": "5"}, "max_num_results"),
        ({"query": "a", "rewrite_query": "true"}, "rewrite_query"),
        ({"query": "a", "mode": "Hybrid"}, "mode"),
        ({"query": "a", "ranking_options": {"score_threshold": 1.1}}, "ranking_options.score_threshold"),
        ({"query": "a", "ranking_options": {"ranker": "x"}}, "ranking_options.ranker"),
    ],
)
def test_bad_search_is_refused(body: dict[str, Any], param: str) -> None:
    assert refusal(SearchRequest, body).param == param


@pytest.mark.parametrize("size", [100, 4096])
def test_chunk_sizes_of_openai_are_accepted(size: int) -> None:
    strategy = {"type": "static", "static": {"max_chunk_size_tokens": size, "chunk_overlap_tokens": size // 2}}
    validate(VectorStoreFileCreate, {"file_id": "file-1", "chunking_strategy": strategy})


@pytest.mark.parametrize(
    "strategy",
    [
        {"type": "static", "static": {"max_chunk_size_tokens": 0, "chunk_overlap_tokens": 0}},
        {"type": "static", "static": {"max_chunk_size_tokens": 99, "chunk_overlap_tokens": 0}},
        {"type": "static", "static": {"max_chunk_size_tokens": 4097, "chunk_overlap_tokens": 0}},
        {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51}},
        {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 100}},
        {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": -1}},
        {"type": "static", "static": {"max_chunk_size_tokens": 100}},
        {"type": "static"},
        {"type": "auto", "static": {}},
        {"type": "other"},
        {},
        "auto",
    ],
)
def test_bad_chunking_is_refused(strategy: Any) -> None:
    error = refusal(VectorStoreFileCreate, {"file_id": "file-1", "chunking_strategy": strategy})
    assert (error.param or "").startswith("chunking_strategy")


def test_attributes_keep_their_types() -> None:
    attributes = {"tác giả": 'Nguyễn "Văn" A\'--', "a.b": 1.5, "năm": 2024, "mật": True}
    body = validate(VectorStoreFileCreate, {"file_id": "file-1", "attributes": attributes})
    assert body.attributes == attributes
    assert [type(value) for value in (body.attributes or {}).values()] == [str, float, int, bool]


@pytest.mark.parametrize(
    "attributes",
    [
        {f"k{i}": 1 for i in range(17)},
        {"k" * 65: 1},
        {"": 1},
        {"k": "v" * 2**20},
        {"k": None},
        {"k": ["v"]},
        {"k": {"n": 1}},
        {"k": float("inf")},
        ["k"],
    ],
)
def test_bad_attributes_are_refused(attributes: Any) -> None:
    assert refusal(VectorStoreFileUpdate, {"attributes": attributes}).status == 400


@pytest.mark.parametrize(
    "body",
    [
        {"name": "n" * 257},
        {"name": 1},
        {"metadata": {"k": 1}},
        {"metadata": {"k": "v" * 513}},
        {"metadata": {f"k{i}": "v" for i in range(17)}},
        {"expires_after": {"anchor": "last_active_at", "days": 0}},
        {"expires_after": {"anchor": "last_active_at", "days": 366}},
        {"expires_after": {"anchor": "created_at", "days": 1}},
        {"file_ids": "file-1"},
        {"file_ids": ["file-1"] * 501},
        {"file_ids": ["../etc/passwd"]},
    ],
)
def test_bad_store_is_refused(body: dict[str, Any]) -> None:
    assert refusal(VectorStoreCreate, body).status == 400


def test_unknown_fields_of_newer_clients_are_ignored() -> None:
    assert validate(VectorStoreCreate, {"name": "Luật", "from_the_future": {"a": 1}}).name == "Luật"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"purpose": "secret"},
        {"purpose": "Assistants"},
        {"purpose": "assistants", "expires_after": {"anchor": "created_at", "seconds": "3599"}},
        {"purpose": "assistants", "expires_after": {"anchor": "created_at", "seconds": "2592001"}},
        {"purpose": "assistants", "expires_after": {"seconds": "3600"}},
        {"purpose": "assistants", "expires_after": "tomorrow"},
    ],
)
def test_bad_upload_fields_are_refused(fields: dict[str, Any]) -> None:
    assert refusal(FileFields, fields).status == 400


def test_upload_expiry_is_read_from_text() -> None:
    fields = validate(FileFields, {"purpose": "user_data", "expires_after": {"anchor": "created_at", "seconds": "3600"}})
    assert fields.expires_after is not None
    assert fields.expires_after.seconds == 3600
