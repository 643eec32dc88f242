"""The hub's own tools: what a model is told of them, what it may not choose, and that they say what the REST API says."""

import json
from typing import Any

import pytest

from aihub.chat.tools import HubTool
from aihub.core.errors import InvalidRequestError, PermissionDeniedError, UnavailableError
from aihub.core.principal import Principal
from aihub.documents.schemas import SearchRequest
from aihub.documents.serializers import search_result
from aihub.recsys.schemas import NextItemsRequest, RecommendationsRequest, TrendingRequest
from pipelines.hub_tools import MOST_RESULTS, check_arguments, function_of
from tests.unit.pipelines.hub_tool_parts import SHOP_TENANT, ToolParts

CALLER = Principal(tenant_id=SHOP_TENANT)


def tool(name: str, **arguments: Any) -> HubTool:
    return HubTool.model_validate({"type": "hub", "name": name, "arguments": arguments})


def test_fixed_arguments_are_no_parameters_of_the_function() -> None:
    function = function_of(tool("recommend", store_id=7, user_id=42)).function
    assert function.parameters is not None
    assert set(function.parameters["properties"]) == {"n"}
    assert function.parameters["required"] == []


@pytest.mark.parametrize(
    ("name", "arguments", "param"),
    [
        ("recommend", {"shop": 7}, "tools.0.arguments.shop"),
        ("recommend", {"store_id": "7"}, "tools.0.arguments.store_id"),
        ("recommend", {"store_id": -1}, "tools.0.arguments.store_id"),
        ("recommend", {"store_id": 2**63}, "tools.0.arguments.store_id"),
        ("trending", {"n": 0}, "tools.0.arguments.n"),
        ("recommend", {"n": 1_000_000}, "tools.0.arguments.n"),
        ("trending", {"n": MOST_RESULTS + 1}, "tools.0.arguments.n"),
        ("next_item", {"top_k": 21}, "tools.0.arguments.top_k"),
        ("search_documents", {"max_num_results": 50}, "tools.0.arguments.max_num_results"),
        ("next_item", {"item_history": [1, None]}, "tools.0.arguments.item_history.1"),
        ("search_documents", {"vector_store_id": 1}, "tools.0.arguments.vector_store_id"),
        ("search_documents", {"query": ""}, "tools.0.arguments.query"),
    ],
)
def test_wrong_fixed_arguments_are_refused_by_name(name: str, arguments: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_arguments(CALLER, tool(name, **arguments), "tools.0")
    assert refused.value.param == param


def test_vector_store_that_the_key_is_not_for_is_refused() -> None:
    caller = Principal(tenant_id=SHOP_TENANT, vector_stores=frozenset({"vs_other"}))
    with pytest.raises(PermissionDeniedError):
        check_arguments(caller, tool("search_documents", vector_store_id="vs_shop"), "tools.0")


async def test_results_are_the_answers_of_the_rest_api() -> None:
    parts = ToolParts()
    recommended = await parts.tools.run(CALLER, tool("recommend", store_id=7, user_id=42), {"n": 3})
    answer = await parts.shop.recommendations(CALLER, RecommendationsRequest(store_id=7, user_id=42, n=3))
    assert json.loads(recommended.text()) == answer.model_dump(mode="json")
    trending = await parts.tools.run(CALLER, tool("trending"), {"store_id": 7})
    assert trending.answer == (await parts.shop.trending(CALLER, TrendingRequest(store_id=7))).model_dump(mode="json")
    following = await parts.tools.run(CALLER, tool("next_item", store_id=7), {"item_history": [1, 2]})
    request = NextItemsRequest(store_id=7, item_history=[1, 2])
    assert following.answer == (await parts.shop.next_items(CALLER, request)).model_dump(mode="json")
    found = await parts.tools.run(CALLER, tool("search_documents", vector_store_id="vs_shop"), {"query": "Phở giá bao nhiêu?"})
    chunks = await parts.shelf.find_chunks(CALLER, "vs_shop", SearchRequest(query="?"))
    assert found.answer["data"] == [search_result(chunk).model_dump(mode="json") for chunk in chunks]
    assert [result.model_version for result in (recommended, trending, following, found)] == [
        "neumf-3",
        "trend-2",
        "next-1",
        None,
    ]


async def test_model_cannot_change_what_is_fixed_nor_ask_for_more_than_fits() -> None:
    parts = ToolParts()
    result = await parts.tools.run(
        CALLER, tool("recommend", store_id=7, user_id=42), {"store_id": 8, "user_id": 1, "n": 900, "tenant_id": "other"}
    )
    assert result.arguments == {"store_id": 7, "user_id": 42, "n": 900}
    assert len(result.answer["recommendations"]) == MOST_RESULTS


@pytest.mark.parametrize(
    ("name", "arguments", "count"),
    [
        ("recommend", {"user_id": 42}, "n"),
        ("trending", {}, "n"),
        ("next_item", {"item_history": [1]}, "top_k"),
        ("search_documents", {"query": "Phở?"}, "max_num_results"),
    ],
)
async def test_model_that_asks_for_more_than_it_gets_is_told(name: str, arguments: dict[str, Any], count: str) -> None:
    parts = ToolParts()
    fixed = tool(name, vector_store_id="vs_shop") if name == "search_documents" else tool(name, store_id=7)
    most = await parts.tools.run(CALLER, fixed, arguments | {count: MOST_RESULTS})
    more = await parts.tools.run(CALLER, fixed, arguments | {count: 1_000_000})
    assert not more.failed
    assert more.answer == most.answer
    assert json.loads(most.text()) == most.answer
    note = f"'{count}' counts as 20: the tool gives at most so many results."
    assert json.loads(more.text()) == {**most.answer, "note": note}
    parameters = function_of(fixed).function.parameters
    assert parameters is not None
    assert parameters["properties"][count]["maximum"] == MOST_RESULTS


@pytest.mark.parametrize("arguments", [None, {}])
async def test_call_that_was_cut_runs_with_what_is_fixed(arguments: dict[str, Any] | None) -> None:
    result = await ToolParts().tools.run(CALLER, tool("recommend", store_id=7, user_id=42), arguments)
    assert not result.failed
    assert result.model_version == "neumf-3"


async def test_tools_see_the_callers_tenant_only() -> None:
    parts = ToolParts()
    result = await parts.tools.run(Principal(tenant_id="other"), tool("recommend", store_id=7, user_id=42), {})
    assert result.failed
    assert result.answer["error"]["code"] == "not_found"


@pytest.mark.parametrize("arguments", [None, {}, {"store_id": "seven"}, {"store_id": 7, "user_id": None}])
async def test_wrong_arguments_of_a_model_are_an_answer_that_it_reads(arguments: dict[str, Any] | None) -> None:
    result = await ToolParts().tools.run(CALLER, tool("recommend"), arguments)
    assert result.failed
    assert result.answer["error"]["message"]


async def test_part_that_is_away_is_an_answer_that_the_model_reads() -> None:
    parts = ToolParts()
    parts.shop.error = UnavailableError("The recommender is starting.")
    result = await parts.tools.run(CALLER, tool("trending", store_id=7), {})
    assert result.answer == {
        "error": {
            "message": "The recommender is starting.",
            "type": "service_unavailable",
            "param": None,
            "code": "service_unavailable",
        }
    }


async def test_store_that_a_model_names_must_be_one_of_the_keys() -> None:
    caller = Principal(tenant_id=SHOP_TENANT, vector_stores=frozenset({"vs_other"}))
    parts = ToolParts()
    result = await parts.tools.run(caller, tool("search_documents"), {"vector_store_id": "vs_shop", "query": "phở"})
    assert result.answer["error"]["code"] == "vector_store_not_allowed"
    assert parts.shelf.asked == []
