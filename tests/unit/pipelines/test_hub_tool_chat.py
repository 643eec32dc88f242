"""Chat with the hub's tools: rounds are bounded, calls run for the caller, streams are one answer, products are cited."""

import json
import re
import shlex
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from aihub.chat.messages import ToolMessage
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import InvalidRequestError, ModelUnavailableError
from aihub.core.principal import Principal
from aihub.core.request_record import RequestRecord, current_record
from aihub.core.schemas import validate
from aihub.core.sse import DONE, events, payload
from pipelines.hub_tool_chat import MOST_CALLS, MOST_ROUNDS, HubToolChat
from tests.unit.pipelines.hub_tool_parts import SHOP_TENANT, ToolParts, WrittenChat, call
from tests.unit.pipelines.rag_parts import request

CALLER = Principal(tenant_id=SHOP_TENANT)
RECOMMEND = {"type": "hub", "name": "recommend", "arguments": {"store_id": 7, "user_id": 42}}
SEARCH = {"type": "hub", "name": "search_documents", "arguments": {"vector_store_id": "vs_shop"}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "chat.md").read_text(encoding="utf-8")
ANSWER = "Bạn nên mua 101 và 103, giá 102.5 nghìn."


def chat(*rounds: Any, parts: ToolParts | None = None) -> tuple[HubToolChat, WrittenChat]:
    written = WrittenChat(deque(rounds))
    return HubToolChat(written, (parts or ToolParts()).tools), written


async def chunks_of(hub: HubToolChat, **fields: Any) -> list[dict[str, Any]]:
    stream = await hub.open_chat_stream(CALLER, request("Nên mua gì?", stream=True, **fields))
    text = "".join([frame async for frame in stream])
    assert text.endswith(DONE)
    assert text.count(DONE) == 1
    return [chunk for event in events(text) if (chunk := payload(event)) is not None]


async def test_request_without_the_hubs_tools_passes_as_it_is() -> None:
    hub, written = chat("Xin chào")
    answer = await hub.chat(CALLER, request("Chào", tools=[WEATHER]))
    assert answer["choices"][0]["message"]["content"] == "Xin chào"
    assert "hub_tools" not in answer
    assert written.asked[0].tools is not None


async def test_model_goes_on_with_what_the_tool_says_and_cites_products_with_the_models_version() -> None:
    parts = ToolParts()
    hub, written = chat([call("recommend", n=3)], ANSWER, parts=parts)
    answer = await hub.chat(CALLER, request("Nên mua gì?", tools=[RECOMMEND]))
    message = answer["choices"][0]["message"]
    assert [(found["item_id"], found["index"], found["model_version"]) for found in message["annotations"]] == [
        (101, ANSWER.index("101"), "neumf-3"),
        (103, ANSWER.index("103"), "neumf-3"),
    ]
    assert answer["hub_tools"][0]["arguments"] == {"store_id": 7, "user_id": 42, "n": 3}
    result = written.asked[1].messages[-1]
    assert isinstance(result, ToolMessage)
    assert json.loads(result.content) == answer["hub_tools"][0]["result"]
    assert answer["usage"]["total_tokens"] == 26
    assert parts.shop.asked[0][0] == SHOP_TENANT


async def test_stream_is_one_answer_with_the_same_report() -> None:
    plain, _ = chat([call("recommend", n=3)], ANSWER)
    expected = await plain.chat(CALLER, request("Nên mua gì?", tools=[RECOMMEND]))
    hub, written = chat([call("recommend", n=3)], ANSWER)
    chunks = await chunks_of(hub, tools=[RECOMMEND], stream_options={"include_usage": True})
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-1"}
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas).strip() == ANSWER
    assert sum("role" in delta for delta in deltas) == 1
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]] == ["stop"]
    [told] = [chunk for chunk in chunks if "hub_tools" in chunk]
    assert told["hub_tools"] == expected["hub_tools"]
    assert told["choices"][0]["delta"]["annotations"] == expected["choices"][0]["message"]["annotations"]
    assert chunks[-1]["usage"]["total_tokens"] == 26
    assert written.open == 0


async def test_tokens_of_all_rounds_are_on_the_record_of_a_stream_whose_client_asks_for_no_usage() -> None:
    record = RequestRecord()
    token = current_record.set(record)
    try:
        hub, written = chat([call("recommend", n=3)], ANSWER)
        chunks = await chunks_of(hub, tools=[RECOMMEND])
    finally:
        current_record.reset(token)
    assert not any(chunk.get("usage") for chunk in chunks)
    assert (record.prompt_tokens, record.completion_tokens) == (20, 6)
    assert all(asked.wants_usage for asked in written.asked)


async def test_passages_are_cited_with_their_place_in_the_document() -> None:
    hub, _ = chat([call("search_documents", query="giá phở")], "Một tô phở bò giá 65 nghìn đồng.")
    answer = await hub.chat(CALLER, request("Phở giá bao nhiêu?", tools=[SEARCH]))
    [citation] = answer["choices"][0]["message"]["annotations"]
    assert (citation["type"], citation["file_id"], citation["quote"]) == (
        "file_citation",
        "file-1",
        "Một tô phở bò giá 65 nghìn đồng.",
    )


async def test_calls_of_one_round_all_run_and_a_failed_one_is_told() -> None:
    hub, written = chat([call("recommend", "a", n=1), call("search_documents", "b"), call("recommend", "c", n=2)], "101")
    answer = await hub.chat(CALLER, request(tools=[RECOMMEND, SEARCH]))
    assert [entry["failed"] for entry in answer["hub_tools"]] == [False, True, False]
    assert [message.tool_call_id for message in written.asked[1].messages if isinstance(message, ToolMessage)] == ["a", "b", "c"]


async def test_too_many_calls_of_one_round_are_refused_to_the_model() -> None:
    parts = ToolParts()
    hub, _ = chat([call("recommend", f"call_{n}", n=1) for n in range(MOST_CALLS + 3)], "101", parts=parts)
    answer = await hub.chat(CALLER, request(tools=[RECOMMEND]))
    assert len(parts.shop.asked) == MOST_CALLS
    assert [entry["failed"] for entry in answer["hub_tools"]].count(True) == 3


async def test_model_must_answer_after_some_rounds() -> None:
    hub, written = chat(*[[call("recommend", n=1)] for _ in range(MOST_ROUNDS)], "101")
    answer = await hub.chat(CALLER, request(tools=[RECOMMEND]))
    assert [asked.tool_choice for asked in written.asked] == [None] * MOST_ROUNDS + ["none"]
    assert len(answer["hub_tools"]) == MOST_ROUNDS


@pytest.mark.parametrize(
    "choice", ["required", {"type": "hub", "name": "recommend"}, {"type": "function", "function": {"name": "recommend"}}]
)
async def test_forced_call_is_forced_once(choice: Any) -> None:
    hub, written = chat([call("recommend")], "101")
    await hub.chat(CALLER, request(tools=[RECOMMEND], tool_choice=choice))
    forced, then = [asked.to_engine_body()["tool_choice"] for asked in written.asked]
    assert forced == choice if choice == "required" else forced["function"]["name"] == "recommend"
    assert then == "none"


async def test_calls_of_the_clients_functions_are_the_answer() -> None:
    hub, written = chat([call("weather", "w"), call("recommend", "r", n=1)])
    answer = await hub.chat(CALLER, request(tools=[WEATHER, RECOMMEND]))
    assert [one["id"] for one in answer["choices"][0]["message"]["tool_calls"]] == ["w"]
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert len(written.asked) == 1


async def test_calls_of_the_clients_functions_are_the_end_of_a_stream() -> None:
    hub, _ = chat([call("recommend", "r", n=1)], [call("weather", "w", city="Huế")])
    chunks = await chunks_of(hub, tools=[WEATHER, RECOMMEND])
    [calls] = [
        choice["delta"]["tool_calls"] for chunk in chunks for choice in chunk["choices"] if "tool_calls" in choice["delta"]
    ]
    assert calls == [{"index": 0, **call("weather", "w", city="Huế")}]
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]] == [
        "tool_calls"
    ]


async def test_stream_that_is_closed_closes_the_models() -> None:
    hub, written = chat([call("recommend", n=1)], ANSWER)
    stream = await hub.open_chat_stream(CALLER, request("Nên mua gì?", stream=True, tools=[RECOMMEND]))
    async for frame in stream:
        if "Bạn" in frame:
            break
    await stream.aclose()
    assert written.open == 0


async def test_stream_that_is_closed_unread_closes_the_models() -> None:
    hub, written = chat(ANSWER)
    inner = await written.open_chat_stream(CALLER, request(stream=True))
    await anext(inner)  # as every chat service hands its streams over

    async def held(*_: Any) -> Any:
        return inner

    written.open_chat_stream = held
    stream = await hub.open_chat_stream(CALLER, request("Nên mua gì?", stream=True, tools=[RECOMMEND]))
    await stream.aclose()
    assert written.open == 0


async def test_error_before_the_first_byte_is_raised_and_a_later_one_ends_the_stream() -> None:
    hub, _ = chat(ModelUnavailableError("away"))
    with pytest.raises(ModelUnavailableError):
        await hub.open_chat_stream(CALLER, request(stream=True, tools=[RECOMMEND]))
    hub, _ = chat([call("recommend", n=1)], ModelUnavailableError("away"))
    stream = await hub.open_chat_stream(CALLER, request(stream=True, tools=[RECOMMEND]))
    text = "".join([frame async for frame in stream])
    assert '"code":"model_unavailable"' in text
    assert text.endswith(DONE)


async def test_several_choices_and_wrong_arguments_are_refused_before_the_model_is_asked() -> None:
    hub, written = chat()
    with pytest.raises(InvalidRequestError, match="one choice"):
        await hub.chat(CALLER, request(tools=[RECOMMEND], n=2))
    with pytest.raises(InvalidRequestError) as refused:
        await hub.open_chat_stream(CALLER, request(stream=True, tools=[WEATHER, RECOMMEND | {"arguments": {"shop": 1}}]))
    assert refused.value.param == "tools.1.arguments.shop"
    assert written.asked == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "hub", "name": "buy"}]}, "tools.0.name"),
        ({"tools": [RECOMMEND, RECOMMEND]}, "tools.1.name"),
        ({"tools": [RECOMMEND], "tool_choice": {"type": "hub", "name": "trending"}}, "tool_choice.name"),
        ({"tools": [{"type": "magic", "name": "recommend"}]}, "tools.0.type"),
    ],
)
def test_tools_that_do_not_exist_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        request(**fields)
    assert refused.value.param == param


async def test_example_of_the_documentation_is_answered_with_the_shops_products() -> None:
    [example] = [block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if '"type": "hub"' in block]
    _, _, body = shlex.split(example.replace("\\\n", " "))[-3:]
    asked = json.loads(body)
    asked["tools"][0]["arguments"]["store_id"] = 7
    hub, _ = chat([call("recommend", n=2)], "101 and 102.")
    answer = await hub.chat(CALLER, validate(ChatCompletionRequest, asked))
    assert [found["item_id"] for found in answer["choices"][0]["message"]["annotations"]] == [101, 102]
