"""Chat whose model may call the hub's own tools: they run here, and the model goes on with what they say."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from aihub.chat.assistants import Assistant
from aihub.chat.completions import CompletionRequest
from aihub.chat.messages import AssistantMessage, CalledFunction, Message, SystemMessage, ToolMessage, UserMessage
from aihub.chat.sampling import StreamOptions
from aihub.chat.schemas import ChatCompletionRequest
from aihub.chat.service import OWNER, ChatService
from aihub.chat.tools import FunctionChoice, HubTool, HubToolChoice, NamedToolChoice, name_of
from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from aihub.core.sse import error_frame
from pipelines.hub_tool_citations import annotate, report
from pipelines.hub_tool_stream import HubToolStream
from pipelines.hub_tools import HubTools, ToolResult, check_arguments, function_of

MOST_ROUNDS = 4
"""Times that the model may call tools before it must answer."""

MOST_CALLS = 8
"""Calls that run in one round; those after them are refused, and the model is told."""


class HubToolChat:
    """Implements `aihub.chat.service.ChatService` around another one.

    Requests without the hub's tools pass through. Where the model calls functions of the client's in the same message, these
    are the answer, and the hub's calls in it are dropped: the model may repeat them once it has the client's results.

    Args:
        assistants: Names that stand for a model with instructions and tools.
    """

    def __init__(self, inner: ChatService, tools: HubTools, assistants: Mapping[str, Assistant] | None = None) -> None:
        self._inner = inner
        self._tools = tools
        self._assistants = assistants or {}

    async def chat(self, principal: Principal, request: ChatCompletionRequest) -> dict[str, Any]:
        """Answer; the message's `annotations` cite products and passages, and `hub_tools` holds every call and its result.

        Raises:
            InvalidRequestError: A tool's fixed arguments are wrong, or `n` is above 1.
            HubError: Whatever the inner service raises.
        """
        principal, request = self._expand(principal, request)
        if not request.hub_tools:
            return await self._inner.chat(principal, request)
        conversation = Conversation.begin(principal, request)
        usage: dict[str, int] = {}
        while True:
            answer = await self._inner.chat(principal, conversation.request())
            usage = add_usage(usage, answer["usage"])
            choice = answer["choices"][0]
            calls = choice["message"].get("tool_calls") or []
            own = conversation.own_calls(calls)
            if not own:
                return self._conclude(conversation, answer, usage)
            await self.run(conversation, choice["message"].get("content"), own)

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        """Stream the answer; rounds that call the hub's tools are not shown. Promises and errors as the inner service's."""
        principal, request = self._expand(principal, request)
        if not request.hub_tools:
            return await self._inner.open_chat_stream(principal, request)
        conversation = Conversation.begin(principal, request)
        first = await self._inner.open_chat_stream(principal, conversation.request())
        stream = self._stream(conversation, first)
        # A generator that was never started runs no `finally` when closed, so it is brought to where it holds the first round.
        await anext(stream)
        return stream

    async def complete(self, principal: Principal, request: CompletionRequest) -> dict[str, Any]:
        return await self._inner.complete(principal, request)

    async def open_complete_stream(self, principal: Principal, request: CompletionRequest) -> AsyncGenerator[str, None]:
        return await self._inner.open_complete_stream(principal, request)

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        """Return the inner service's models, and the assistants that the caller may use."""
        models = await self._inner.models(principal)
        names = [name for name in self._assistants if self._find(principal, name) is not None and principal.may_use_model(name)]
        return [*models, *({"id": name, "object": "model", "created": 0, "owned_by": OWNER} for name in names)]

    def _find(self, principal: Principal, name: str) -> Assistant | None:
        assistant = self._assistants.get(name)
        if assistant is None or (assistant.tenants is not None and principal.tenant_id not in assistant.tenants):
            return None
        return assistant

    def _expand(self, principal: Principal, request: ChatCompletionRequest) -> tuple[Principal, ChatCompletionRequest]:
        """Put an assistant's model, instructions and tools into a request that names it.

        A key for the assistant needs none for its model.

        Raises:
            PermissionDeniedError: The caller's key is not for the assistant.
        """
        assistant = self._find(principal, request.model)
        if assistant is None:
            return principal, request
        principal.require_model(request.model)
        messages = list(request.messages)
        if assistant.instructions is not None:
            messages.insert(0, SystemMessage(role="system", content=assistant.instructions))
        asked = {name_of(tool) for tool in request.tools or ()}
        tools = [*(request.tools or ()), *(tool for tool in assistant.tools if tool.name not in asked)]
        changes = {"model": assistant.model, "messages": messages, "tools": tools or None}
        return replace(principal, models=None), request.model_copy(update=changes)

    async def run(self, conversation: "Conversation", content: str | None, calls: Sequence[Mapping[str, Any]]) -> None:
        """Run the calls of one message at the same time, and add them and their results to the conversation."""
        results = await asyncio.gather(
            *(self._run(conversation, position, call) for position, call in enumerate(calls)),
        )
        conversation.add(content, calls, results)

    async def _run(self, conversation: "Conversation", position: int, call: Mapping[str, Any]) -> ToolResult:
        name = call["function"]["name"]
        if position >= MOST_CALLS:
            error = InvalidRequestError(f"At most {MOST_CALLS} calls are run at a time.", code="too_many_calls")
            return ToolResult(name, {}, error.to_openai(), failed=True)
        function = validate(CalledFunction, call["function"])
        return await self._tools.run(conversation.principal, conversation.tools[name], function.arguments_object())

    async def _stream(self, conversation: "Conversation", first: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """Yield nothing once the first round is held, then the events of the answer."""
        stream = HubToolStream(conversation.tools, is_usage_wanted=conversation.asked.wants_usage)
        try:
            async with aclosing(self._rounds(conversation, stream, first)) as events:
                async for event in events:
                    yield event
        finally:
            stream.note_usage()

    async def _rounds(
        self, conversation: "Conversation", stream: HubToolStream, first: AsyncGenerator[str, None]
    ) -> AsyncGenerator[str, None]:
        frames = first
        while True:
            async with aclosing(frames):
                if frames is first:
                    yield ""
                async for event in stream.listen(frames):
                    yield event
            calls = stream.take_calls()
            if not calls:
                break
            await self.run(conversation, stream.take_text(), calls)
            try:
                frames = await self._inner.open_chat_stream(conversation.principal, conversation.request())
            except HubError as error:
                yield error_frame(error)
                return
        async for event in stream.conclude(conversation.question, conversation.results):
            yield event

    def _conclude(self, conversation: "Conversation", answer: dict[str, Any], usage: dict[str, int]) -> dict[str, Any]:
        choice = answer["choices"][0]
        message = dict(choice["message"])
        if message.get("tool_calls"):
            message["tool_calls"] = [call for call in message["tool_calls"] if call["function"]["name"] not in conversation.tools]
        found = annotate(message.get("content") or "", conversation.question, conversation.results)
        message["annotations"] = [*(message.get("annotations") or []), *found]
        return answer | {
            "choices": [choice | {"message": message}],
            "usage": answer["usage"] | usage,
            "hub_tools": report(conversation.results),
        }


def add_usage(total: Mapping[str, int], usage: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens of several rounds together; what is no number is left out."""
    return {
        name: total.get(name, 0) + int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }


@dataclass(slots=True)
class Conversation:
    """A request and what its tools have said so far."""

    principal: Principal
    asked: ChatCompletionRequest
    tools: dict[str, HubTool]
    messages: list[Message]
    results: list[ToolResult] = field(default_factory=list)
    rounds: int = 0

    @classmethod
    def begin(cls, principal: Principal, request: ChatCompletionRequest) -> "Conversation":
        """Check what is fixed; raises as `HubToolChat.chat`."""
        if (request.n or 1) > 1:
            raise InvalidRequestError("The hub's own tools answer one choice; leave 'n' out.", param="n")
        for index, tool in enumerate(request.tools or ()):
            if isinstance(tool, HubTool):
                check_arguments(principal, tool, f"tools.{index}")
        return cls(principal, request, {tool.name: tool for tool in request.hub_tools}, list(request.messages))

    @property
    def question(self) -> str:
        """What the user asked last."""
        return next((message.question for message in reversed(self.messages) if isinstance(message, UserMessage)), "")

    def request(self) -> ChatCompletionRequest:
        """Return what the model is asked next, the hub's tools made functions.

        A call that the client forced is forced in the first round only; after `MOST_ROUNDS` the model must answer.
        """
        choice = self.asked.tool_choice
        if isinstance(choice, HubToolChoice):
            choice = NamedToolChoice(type="function", function=FunctionChoice(name=choice.name))
        if self.rounds and choice not in {"auto", "none", None}:
            choice = "none"
        if self.rounds >= MOST_ROUNDS:
            choice = "none"
        tools = [function_of(tool) if isinstance(tool, HubTool) else tool for tool in self.asked.tools or ()]
        changes: dict[str, Any] = {"messages": list(self.messages), "tools": tools, "tool_choice": choice}
        if self.asked.stream:
            changes["stream_options"] = StreamOptions(include_usage=True)  # the sum of all rounds is what was used
        return self.asked.model_copy(update=changes)

    def own_calls(self, calls: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return the calls to run: none where the client has to run some, or where the model must answer."""
        if self.rounds >= MOST_ROUNDS or any(call["function"]["name"] not in self.tools for call in calls):
            return []
        return list(calls)

    def add(self, content: str | None, calls: Sequence[Mapping[str, Any]], results: Sequence[ToolResult]) -> None:
        """Take in a round."""
        self.rounds += 1
        self.results += results
        asked = {"role": "assistant", "content": content or "", "tool_calls": [dict(call) for call in calls]}
        self.messages.append(validate(AssistantMessage, asked))
        for call, result in zip(calls, results, strict=True):
            self.messages.append(validate(ToolMessage, {"role": "tool", "tool_call_id": call["id"], "content": result.text()}))
