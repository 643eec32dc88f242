"""One client's stream made of several rounds of a model: calls of the hub's tools are taken out, the rest passes as it comes."""

from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from typing import Any

from aihub.core.request_record import get_record
from aihub.core.sse import DONE, data_event, events, payload
from pipelines.hub_tool_citations import annotate, report
from pipelines.hub_tools import ToolResult


class HubToolStream:
    """Follows the rounds of one answer.

    A client sees one answer: the first round's `id`, `created` and `model`, one role, one finish reason, one `usage` with the
    tokens of all rounds. Calls are held back to the end of their round.

    Args:
        tools: Names of the hub's tools.
        is_usage_wanted: Whether the client has asked for the usage, which the rounds tell in any case.
    """

    def __init__(self, tools: Collection[str], *, is_usage_wanted: bool) -> None:
        self._tools = tools
        self._is_usage_wanted = is_usage_wanted
        self._head: dict[str, Any] = {}
        self._has_role = False
        self._texts: list[str] = []
        self._usage: dict[str, Any] | None = None
        self._sourced: dict[str, Any] = {}
        self._failed = False
        self._begin_round()

    def _begin_round(self) -> None:
        self._calls: dict[int, dict[str, Any]] = {}
        self._round_text: list[str] = []
        self._finish: dict[str, Any] | None = None

    async def listen(self, frames: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        """Yield what the client sees of a round; its last frames are held back for `conclude`."""
        self._begin_round()
        async for frame in frames:
            for event in events(frame):
                if (chunk := payload(event)) is None:
                    if event != DONE:
                        yield event
                elif "error" in chunk:
                    self._failed = True
                    yield event
                elif (shown := self._take(chunk)) is not None:
                    yield data_event(shown)

    def _take(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """Take in a chunk and return what is shown of it."""
        self._head = self._head or {key: chunk[key] for key in ("id", "object", "created", "model") if key in chunk}
        if chunk.get("usage"):
            self._add_usage(chunk["usage"])
        if "retrieval" in chunk:
            self._sourced = chunk
            return None
        if not chunk.get("choices"):
            return None
        choice = dict(chunk["choices"][0])
        delta = dict(choice.get("delta") or {})
        self._round_text.append(delta.get("content") or "")
        self._texts.append(delta.get("content") or "")
        self._add_calls(delta.pop("tool_calls", None) or ())
        if self._has_role:
            delta.pop("role", None)
        self._has_role = self._has_role or "role" in delta
        if choice.get("finish_reason"):
            self._finish = choice | {"delta": {}}
            choice["finish_reason"] = None
        if not any(delta.values()) and "role" not in delta:
            return None
        shown = {key: value for key, value in chunk.items() if key != "usage"}
        return shown | self._head | {"choices": [choice | {"delta": delta}]}

    def _add_calls(self, parts: Sequence[dict[str, Any]]) -> None:
        for part in parts:
            call = self._calls.setdefault(
                part["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            function = part.get("function") or {}
            call["id"] = part.get("id") or call["id"]
            call["function"]["name"] += function.get("name") or ""
            call["function"]["arguments"] += function.get("arguments") or ""

    def _add_usage(self, usage: dict[str, Any]) -> None:
        known = self._usage or {}
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        self._usage = usage | {name: int(known.get(name) or 0) + int(usage.get(name) or 0) for name in names}

    def note_usage(self) -> None:
        """Tell the request's record what all rounds have used."""
        if self._usage is not None:
            get_record().note_usage(self._usage)

    def take_text(self) -> str:
        """Return what the round that has ended said beside its calls."""
        return "".join(self._round_text)

    def take_calls(self) -> list[dict[str, Any]]:
        """Return the calls to run, as the round that has ended made them; none where the answer is complete."""
        calls = [self._calls[index] for index in sorted(self._calls)]
        if self._failed or not calls or any(call["function"]["name"] not in self._tools for call in calls):
            return []
        return calls

    async def conclude(self, question: str, results: Sequence[ToolResult]) -> AsyncGenerator[str, None]:
        """Yield the end of the answer: calls of the client's functions, the finish reason, annotations and report, `usage`."""
        if not self._failed:
            for chunk in self._ending(question, results):
                yield data_event(self._head | chunk)
        yield DONE

    def _ending(self, question: str, results: Sequence[ToolResult]) -> Iterator[dict[str, Any]]:
        calls = [call for call in self._calls.values() if call["function"]["name"] not in self._tools]
        if calls:
            parts = [{"index": index, **call} for index, call in enumerate(calls)]
            yield {"choices": [{"index": 0, "delta": {"tool_calls": parts}, "finish_reason": None}]}
        if self._finish is not None:
            yield {"choices": [self._finish]}
        found = annotate("".join(self._texts), question, results)
        known = [annotation for choice in self._sourced.get("choices", ()) for annotation in choice["delta"]["annotations"]]
        sources = {"retrieval": self._sourced["retrieval"]} if self._sourced else {}
        choice = {"index": 0, "delta": {"annotations": [*known, *found]}, "finish_reason": None}
        yield {"choices": [choice], "hub_tools": report(results), **sources}
        if self._usage is not None and self._is_usage_wanted:
            yield {"choices": [], "usage": self._usage}
