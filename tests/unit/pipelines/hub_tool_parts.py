"""A shop, documents and a model that says what a test has written down, for the tests of the hub's tools."""

import json
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aihub.chat.completions import CompletionRequest
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import HubError, NotFoundError
from aihub.core.principal import Principal
from aihub.core.sse import DONE, data_event
from aihub.documents.schemas import SearchRequest
from aihub.documents.search.retriever import ScoredChunk
from aihub.recsys.schemas import (
    NextItemPrediction,
    NextItemsAnswer,
    NextItemsRequest,
    RecommendationsAnswer,
    RecommendationsRequest,
    RecommendedItem,
    TrendingAnswer,
    TrendingItem,
    TrendingRequest,
)
from pipelines.hub_tools import HubTools
from tests.unit.pipelines.rag_parts import chunks

SHOP_TENANT = "cửa-hàng"
PASSAGE = "Quán mở cửa từ 6 giờ sáng. Một tô phở bò giá 65 nghìn đồng. Quán nghỉ vào thứ Hai."


@dataclass
class Shop:
    """Store 7 of one tenant; its predictions never change."""

    error: HubError | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)

    def _require(self, principal: Principal, request: Any) -> None:
        self.asked.append((principal.tenant_id, request))
        if self.error is not None:
            raise self.error
        if (principal.tenant_id, request.store_id) != (SHOP_TENANT, 7):
            raise NotFoundError(f"Store {request.store_id} has no model. Train it.")

    async def recommendations(self, principal: Principal, request: RecommendationsRequest) -> RecommendationsAnswer:
        self._require(principal, request)
        items = [RecommendedItem(item_id=100 + n, variant_id=1000 + n, score=1 / n, rank=n) for n in range(1, request.n + 1)]
        return RecommendationsAnswer(store_id=7, user_id=request.user_id, recommendations=items, model_version="neumf-3")

    async def trending(self, principal: Principal, request: TrendingRequest) -> TrendingAnswer:
        self._require(principal, request)
        item = TrendingItem(variant_id=1200, item_id=200, predicted_sales=4.5, trend_score=1.2, rank=1)
        return TrendingAnswer(store_id=7, trending=[item], model_version="trend-2")

    async def next_items(self, principal: Principal, request: NextItemsRequest) -> NextItemsAnswer:
        self._require(principal, request)
        item = NextItemPrediction(
            item_id=300, variant_id=1300, probability=1, confidence=0.5, support=4, support_share=0.1, lift=2, rank=1
        )
        return NextItemsAnswer(
            store_id=7, input_history=request.item_history, predictions=[item], next_items=[], model_version="next-1"
        )


@dataclass
class Shelf:
    """Documents of one vector store."""

    found: Sequence[ScoredChunk] = field(default_factory=lambda: chunks(PASSAGE))
    asked: list[tuple[str, str, SearchRequest]] = field(default_factory=list)

    async def find_chunks(self, principal: Principal, store_id: str, request: SearchRequest) -> Sequence[ScoredChunk]:
        self.asked.append((principal.tenant_id, store_id, request))
        if store_id != "vs_shop":
            raise NotFoundError(f"No vector store {store_id!r}.")
        return self.found[: request.max_num_results]


def call(name: str, call_id: str = "call_1", **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}


@dataclass
class WrittenChat:
    """A chat service that answers what is written: a text, calls, or an error, one a round."""

    rounds: deque[str | list[dict[str, Any]] | HubError]
    asked: list[ChatCompletionRequest] = field(default_factory=list)
    open: int = 0

    async def chat(self, principal: Principal, request: ChatCompletionRequest) -> dict[str, Any]:
        said = self._next(request)
        message: dict[str, Any] = {"role": "assistant", "content": said if isinstance(said, str) else None}
        if isinstance(said, list):
            message["tool_calls"] = said
        choice = {"index": 0, "message": message, "finish_reason": "stop" if isinstance(said, str) else "tool_calls"}
        return self._head("chat.completion") | {"choices": [choice], "usage": self._usage()}

    async def open_chat_stream(self, principal: Principal, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        return self._frames(self._next(request))

    async def complete(self, principal: Principal, request: CompletionRequest) -> dict[str, Any]:
        return {"object": "text_completion"}

    async def open_complete_stream(self, principal: Principal, request: CompletionRequest) -> AsyncGenerator[str, None]:
        return self._frames("completion")

    async def models(self, principal: Principal) -> list[dict[str, Any]]:
        return [{"id": "fake-chat"}]

    def _next(self, request: ChatCompletionRequest) -> str | list[dict[str, Any]]:
        request.to_engine_body()  # what the hub's own tools must never reach
        self.asked.append(request)
        said = self.rounds.popleft()
        if isinstance(said, HubError):
            raise said
        return said

    async def _frames(self, said: str | list[dict[str, Any]]) -> AsyncGenerator[str, None]:
        self.open += 1
        try:
            yield self._delta({"role": "assistant", "content": ""})
            if isinstance(said, str):
                for word in said.split(" "):
                    yield self._delta({"content": f"{word} "})
            else:
                for index, one in enumerate(said):
                    half = len(one["function"]["arguments"]) // 2
                    first = one | {
                        "index": index,
                        "function": one["function"] | {"arguments": one["function"]["arguments"][:half]},
                    }
                    yield self._delta({"tool_calls": [first]})
                    rest = {"index": index, "function": {"arguments": one["function"]["arguments"][half:]}}
                    yield self._delta({"tool_calls": [rest]})
            yield self._delta({}, "stop" if isinstance(said, str) else "tool_calls")
            yield data_event(self._head("chat.completion.chunk") | {"choices": [], "usage": self._usage()}) + DONE
        finally:
            self.open -= 1

    def _delta(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return data_event(self._head("chat.completion.chunk") | {"choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{len(self.asked)}", "object": kind, "created": 1, "model": "fake-chat"}

    def _usage(self) -> dict[str, Any]:
        return {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}


@dataclass
class ToolParts:
    shop: Shop = field(default_factory=Shop)
    shelf: Shelf = field(default_factory=Shelf)

    @property
    def tools(self) -> HubTools:
        return HubTools(self.shop, self.shelf)
