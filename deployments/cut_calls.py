"""Tool calls that `max_tokens` cut, as vLLM 0.32 answers them: the same partial call whether streamed or not.

vLLM puts the whole markup (`<tool_call>{"name": ...`) into `content` when an answer is not streamed and its JSON is not complete,
gives `{}` as arguments when a stream ends right after a name, keeps back the start of a tag for ever, and takes a cut call for
a finished one. Imported in a model's replica alone.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from deployments.vllm_compat import (
    DelegatingParser,
    DeltaMessage,
    ExtractedToolCallInformation,
    FunctionCall,
    Hermes2ProToolParser,
    LLMServer,
    ToolCall,
    partial_tag_overlap,
)

_STRING_OR_BRACKET = re.compile(r'"(?:\\.|[^"\\])*"?|[{}\[\]]', re.DOTALL)


def answer_cut_calls(server: LLMServer) -> None:
    """Let a started server answer cut calls as partial ones."""
    engine: Any = server.engine
    serving = engine._oai_serving_chat
    if serving.parser_cls is not None and issubclass(serving.parser_cls, DelegatingParser):
        serving.parser_cls = partial_calls(serving.parser_cls)
    serving.chat_completion_full_generator = _KeptReasons(serving.chat_completion_full_generator)


class HermesCalls(Hermes2ProToolParser):  # type: ignore[misc]  # vLLM's is untyped here
    """vLLM's parser of `<tool_call>` markup; what is not complete JSON is read as its own stream reads it."""

    def extract_tool_calls(self, model_output: str, request: Any) -> Any:
        """Return the calls of a whole answer; the last may be partial, its arguments the text so far."""
        if self.tool_call_start_token not in model_output:
            kept = model_output[: len(model_output) - self._cut_tag_chars(model_output)]
            return _extracted([], kept)
        as_streamed = self._extract_partial(model_output)
        found = super().extract_tool_calls(model_output, request)
        # vLLM's reader of whole calls takes any order of keys, and writes the arguments anew.
        return found if found.tools_called and not _are_alike(found, as_streamed) else as_streamed

    def held_back(self, text: str) -> str:
        """Return what the stream of `text` kept back as a possible tag and is none, as nothing follows."""
        overlap = 0 if self.tool_call_start_token in text else partial_tag_overlap(text, self.tool_call_start_token)
        return text[len(text) - overlap :] if overlap and not self._cut_tag_chars(text) else ""

    @staticmethod
    def _extract_tool_args(tc_json: str, is_complete: bool) -> str | None:
        """Return the arguments so far, without what closes the call: vLLM finds that only where the JSON is complete."""
        text: str | None = Hermes2ProToolParser._extract_tool_args(tc_json, False)
        if text is None or not text.startswith("{"):
            complete: str | None = Hermes2ProToolParser._extract_tool_args(tc_json, is_complete)
            return complete
        depth = 0
        for token in _STRING_OR_BRACKET.finditer(text):
            depth += token[0] in "{["
            depth -= token[0] in "}]"
            if not depth:
                return text[: token.end()]
        return text

    def _cut_tag_chars(self, text: str) -> int:
        """Characters at the end that begin a tag; a single `<` is taken for the character."""
        overlap = int(partial_tag_overlap(text, self.tool_call_start_token))
        return overlap if overlap > 1 else 0

    def _extract_partial(self, model_output: str) -> Any:
        calls: list[Any] = []
        for text, is_complete in self._extract_tool_call_jsons(model_output):
            name = self._extract_tool_name(text)
            if not name:
                break
            arguments = self._extract_tool_args(text, is_complete) or ""
            calls.append(ToolCall(type="function", function=FunctionCall(name=name, arguments=arguments)))
        return _extracted(calls, model_output[: model_output.index(self.tool_call_start_token)])


def _are_alike(whole: Any, streamed: Any) -> bool:
    """Whether both found the same calls, however their arguments are spaced."""
    if len(whole.tool_calls) != len(streamed.tool_calls):
        return False
    pairs = [(left.function, right.function) for left, right in zip(whole.tool_calls, streamed.tool_calls, strict=True)]
    try:
        return all(a.name == b.name and json.loads(a.arguments) == json.loads(b.arguments) for a, b in pairs)
    except ValueError:
        return False


def _extracted(calls: list[Any], content: str) -> Any:
    # vLLM takes the parser's content, instead of the whole answer, only where tools were called.
    return ExtractedToolCallInformation(tools_called=True, tool_calls=calls, content=content)


def partial_calls(parser_cls: Any) -> Any:
    """Return vLLM's parser of one answer with the ends of streams mended."""
    base: Any = parser_cls
    reads_hermes = base.tool_parser_cls is Hermes2ProToolParser

    class PartialCalls(base):  # type: ignore[misc]  # composed by vLLM at run time
        tool_parser_cls = HermesCalls if reads_hermes else base.tool_parser_cls

        def parse_delta(self, *args: Any, finished: bool, **kwargs: Any) -> Any:
            delta = super().parse_delta(*args, finished=finished, **kwargs)
            for call in delta.tool_calls if delta is not None else ():
                if call.function is not None and call.function.name and call.function.arguments is None:
                    call.function.arguments = ""
            if finished and isinstance(self._tool_parser, HermesCalls) and self._stream_state.tool_call_text_started:
                delta = _with_content(delta, self._tool_parser.held_back(self._stream_state.previous_text))
            return delta

        def _append_unstreamed_tool_args(self, delta_message: Any) -> None:
            calls = getattr(self._tool_parser, "prev_tool_call_arr", None)
            # Without arguments vLLM would complete the call with an empty object.
            if calls and "arguments" in calls[-1]:
                super()._append_unstreamed_tool_args(delta_message)

    return PartialCalls


def _with_content(delta: Any, text: str) -> Any:
    if not text:
        return delta
    delta = delta if delta is not None else DeltaMessage()
    delta.content = (delta.content or "") + text
    return delta


class _KeptReasons:
    """vLLM's maker of whole answers, with `length` kept as the reason where a call was cut."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    async def __call__(self, request: Any, results: AsyncIterator[Any], *args: Any, **kwargs: Any) -> Any:
        reasons: dict[int, str | None] = {}
        async with aclosing(_noting(results, reasons)) as noted:
            response = await self._answer(request, noted, *args, **kwargs)
        for choice in getattr(response, "choices", ()):
            if reasons.get(choice.index) == "length":
                choice.finish_reason = "length"
        return response


async def _noting(results: AsyncIterator[Any], reasons: dict[int, str | None]) -> AsyncGenerator[Any, None]:
    async for result in results:
        reasons.update({output.index: output.finish_reason for output in result.outputs})
        yield result
