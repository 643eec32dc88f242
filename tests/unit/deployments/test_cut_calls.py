"""Answers cut inside a tool call, through vLLM's own parsers: the same partial call streamed and whole."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.exceptions import VLLMValidationError

from deployments.cut_calls import HermesCalls, _KeptReasons, partial_calls
from deployments.llm_messages import several_greedy
from deployments.vllm_compat import ChatCompletionRequest, DelegatingParser, Hermes2ProToolParser

TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Hà Nội", "days": [1, 2]}}\n</tool_call>'
SECOND = '\n<tool_call>\n{"name": "get_time", "arguments": {"zone": "a<b>"}}\n</tool_call>'


class VllmParser(DelegatingParser):  # type: ignore[misc]  # vLLM's is untyped here
    tool_parser_cls = Hermes2ProToolParser


class Tokenizer:
    def get_vocab(self) -> dict[str, int]:
        return {}


def parser() -> Any:
    return partial_calls(VllmParser)(Tokenizer(), None)


def request(choice: Any = "auto") -> Any:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [TOOL], "tool_choice": choice}
    return ChatCompletionRequest.model_validate(body)


def whole(text: str, choice: Any = "auto") -> tuple[str, list[tuple[str, str]]]:
    _, content, calls = parser().parse(text, request(choice), enable_auto_tools=True)
    return content or "", [(call.name, call.arguments) for call in calls or ()]


def streamed(text: str, choice: Any = "auto", *, step: int = 1) -> tuple[str, list[tuple[str, str]]]:
    reader = parser()
    content = ""
    calls: dict[int, tuple[str, str]] = {}
    pieces = [text[i : i + step] for i in range(0, len(text), step)] or [""]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        delta = reader.parse_delta(piece, [number], request(choice), prompt_token_ids=[0], finished=last)
        content += (delta.content or "") if delta else ""
        for call in delta.tool_calls if delta else ():
            name, arguments = calls.get(call.index, ("", ""))
            calls[call.index] = (name + (call.function.name or ""), arguments + (call.function.arguments or ""))
    return content, list(calls.values())


BRACES = CALL.replace("Hà Nội", r'}}"]{ \" </tool')


@pytest.mark.parametrize("text", [CALL, BRACES, "Let me look. " + CALL, CALL + SECOND])
def test_every_cut_is_the_same_partial_call_streamed_and_whole(text: str) -> None:
    for end in range(len(text) + 1):
        cut = text[:end]
        content, calls = whole(cut)
        for step in (1, 7, len(text)):
            told, made = streamed(cut, step=step)
            assert told.strip() == content.strip(), cut
            assert made == calls, cut
        assert "<tool" not in content
        assert "{" not in content


def test_arguments_are_the_text_so_far() -> None:
    assert whole(CALL[:20]) == ("", [])
    assert whole(CALL[: CALL.index(', "arguments"')]) == ("", [("get_weather", "")])
    assert whole(CALL[: CALL.index(" Nội")]) == ("", [("get_weather", '{"city": "Hà')])
    assert whole(CALL) == ("", [("get_weather", '{"city": "Hà Nội", "days": [1, 2]}')])


def test_complete_call_keeps_the_models_own_spacing() -> None:
    text = '<tool_call>\n{"name": "get_weather", "arguments": {\n  "city": "Huế"\n}}\n</tool_call>'
    assert whole(text) == streamed(text) == ("", [("get_weather", '{\n  "city": "Huế"\n}')])


def test_complete_call_may_name_its_arguments_first() -> None:
    assert whole('<tool_call>{"arguments": {"name": "An"}, "name": "get_weather"}</tool_call>') == (
        "",
        [("get_weather", '{"name": "An"}')],
    )


def test_forced_call_is_cut_in_the_same_way() -> None:
    cut = CALL[: CALL.index(" Nội")]
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        assert whole(cut, choice) == streamed(cut, choice) == ("", [("get_weather", '{"city": "Hà')])


@pytest.mark.parametrize("text", ["", "a < b", "1 <", "Use <b>bold</b>", "<", "no tag <to", "Xin chào"])
def test_text_without_a_call_stays_text(text: str) -> None:
    expected = text.removesuffix("<to")
    assert whole(text) == streamed(text) == (expected, [])


def test_call_whose_json_is_broken_is_a_call_and_no_text() -> None:
    broken = '<tool_call>\n{"name": "get_weather", "arguments": {"city": Paris}}\n</tool_call>'
    assert whole(broken) == streamed(broken)
    assert whole(broken) == ("", [("get_weather", '{"city": Paris}')])


async def test_cut_keeps_length_as_its_reason() -> None:
    async def answer(asked: Any, results: AsyncIterator[Any], name: str) -> Any:
        async for result in results:
            last = result
        return SimpleNamespace(
            name=name, choices=[SimpleNamespace(index=o.index, finish_reason="tool_calls") for o in last.outputs]
        )

    async def results() -> AsyncIterator[Any]:
        for reasons in ((None, None), ("length", "stop")):
            yield SimpleNamespace(outputs=[SimpleNamespace(index=i, finish_reason=reason) for i, reason in enumerate(reasons)])

    response = await _KeptReasons(answer)(None, results(), "m")
    assert (response.name, [choice.finish_reason for choice in response.choices]) == ("m", ["length", "tool_calls"])


def test_vllm_still_needs_all_this() -> None:
    """When one of these fails, vLLM has mended it and the code here can go."""
    cut = CALL[: CALL.index(', "arguments"')]
    _, content, _ = VllmParser(Tokenizer(), None).parse(cut, request(), enable_auto_tools=True)
    assert "<tool_call>" in content
    delta = VllmParser(Tokenizer(), None).parse_delta(cut, [1], request(), prompt_token_ids=[0], finished=True)
    assert delta.tool_calls[-1].function.arguments == "{}"
    assert HermesCalls.structural_tag_model == Hermes2ProToolParser.structural_tag_model


@pytest.mark.parametrize("fields", [{"n": 2, "temperature": 0}, {"n": 8, "temperature": 0.0, "top_p": 0.5, "min_p": 0.1}])
def test_several_greedy_answers_are_taken(fields: dict[str, Any]) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    with pytest.raises(VLLMValidationError, match="greedy"):
        ChatCompletionRequest.model_validate(body).to_sampling_params(5, {})
    taken = ChatCompletionRequest.model_validate(several_greedy(body, {})).to_sampling_params(5, {})
    assert (taken.n, taken.top_k, taken.top_p) == (fields["n"], 1, 1.0)


def test_one_greedy_answer_is_left_as_it_is() -> None:
    body = {"n": 1, "temperature": 0, "top_p": 0.5}
    assert several_greedy(body, {}) is body


def test_greedy_by_default_is_taken_too() -> None:
    body = {"n": 2, "top_k": 5}
    assert several_greedy(body, {"temperature": 0.0}) == {"n": 2, "temperature": 1.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0}
    assert several_greedy(body, {"temperature": 0.7}) is body
    assert several_greedy(body | {"temperature": 0.5}, {"temperature": 0.0})["temperature"] == 0.5
