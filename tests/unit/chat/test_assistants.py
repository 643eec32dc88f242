"""Assistants: the file that names them, and what a request with such a name becomes."""

from collections import deque
from pathlib import Path
from typing import Any

import pytest

from aihub.chat.assistants import Assistant, load_assistants
from aihub.chat.tools import HubTool
from aihub.core.errors import ConfigurationError, NotFoundError, PermissionDeniedError
from aihub.core.principal import Principal
from pipelines.hub_tool_chat import HubToolChat
from tests.unit.pipelines.hub_tool_parts import SHOP_TENANT, ToolParts, WrittenChat, call
from tests.unit.pipelines.rag_parts import request

CALLER = Principal(tenant_id=SHOP_TENANT)
TOOL = HubTool(type="hub", name="trending", arguments={"store_id": 7})
SELLER = Assistant(model="fake-chat", instructions="Bạn bán giày.", tools=(TOOL,), tenants=frozenset({SHOP_TENANT}))


def chat(*rounds: Any) -> tuple[HubToolChat, WrittenChat]:
    written = WrittenChat(deque(rounds))
    return HubToolChat(written, ToolParts().tools, {"người-bán": SELLER}), written


def test_shipped_file_can_be_read_and_its_example_too(tmp_path: Path) -> None:
    assert load_assistants() == {}
    from aihub.chat.assistants import ASSISTANTS_FILE

    lines = ASSISTANTS_FILE.read_text(encoding="utf-8").splitlines()
    example = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    file = tmp_path / "assistants.yaml"
    file.write_text("\n".join(example[example.index("assistants:") :]), encoding="utf-8")
    assert [tool.name for tool in load_assistants(file)["shop-assistant"].tools] == ["trending", "next_item", "search_documents"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("assistants: {a: {model: b, tools: [{type: hub, name: buy}]}}", "tools"),
        ("assistants: {a: {prompt: x}}", "prompt"),
        ("assistants: {auto: {model: b}}", "name of its own"),
        ("assistants: {a: {model: b}, b: {model: c}}", "not by an assistant"),
        ("assistants: [", "not YAML"),
    ],
)
def test_wrong_file_is_refused_with_the_place(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "assistants.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=named):
        load_assistants(file)


def test_missing_file_is_refused_with_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="AIHUB_ASSISTANTS"):
        load_assistants(tmp_path / "none.yaml")


@pytest.mark.parametrize("stream", [False, True])
async def test_request_gets_model_instructions_and_tools(*, stream: bool) -> None:
    hub, written = chat([call("trending")], "200")
    asked = request("Bán gì?", model="người-bán", stream=stream)
    if stream:
        text = "".join([frame async for frame in await hub.open_chat_stream(CALLER, asked)])
        assert '"model_version":"trend-2"' in text
    else:
        answer = await hub.chat(CALLER, asked)
        assert answer["hub_tools"][0]["model_version"] == "trend-2"
    body = written.asked[0].to_engine_body()
    assert body["model"] == "fake-chat"
    assert body["messages"][0] == {"role": "system", "content": "Bạn bán giày."}
    assert [tool["function"]["name"] for tool in body["tools"]] == ["trending"]


async def test_key_for_the_assistant_needs_none_for_its_model() -> None:
    hub, written = chat("200")
    await hub.chat(Principal(tenant_id=SHOP_TENANT, models=frozenset({"người-bán"})), request(model="người-bán"))
    assert written.asked
    with pytest.raises(PermissionDeniedError):
        await hub.chat(Principal(tenant_id=SHOP_TENANT, models=frozenset({"fake-chat"})), request(model="người-bán"))


async def test_assistant_of_other_tenants_is_a_model_that_nobody_has() -> None:
    hub, written = chat(NotFoundError("no such model"))
    with pytest.raises(NotFoundError):
        await hub.chat(Principal(tenant_id="other"), request(model="người-bán"))
    assert written.asked[0].model == "người-bán"
    assert [model["id"] for model in await hub.models(Principal(tenant_id="other"))] == ["fake-chat"]
    assert [model["id"] for model in await hub.models(CALLER)] == ["fake-chat", "người-bán"]
