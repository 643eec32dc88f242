"""Tools that the hub runs itself while it answers a chat: what the shop's models recommend, and what its documents say.

Each is a function for the model, a request of the REST API made of the arguments, and that API's own answer as the result. What
the caller fixed in `arguments` is not in the function's parameters, so that no text can talk a model into another shop.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel

from aihub.chat.tools import Function, HubTool, Tool
from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from aihub.documents.schemas import SearchRequest, SearchResults
from aihub.documents.search.retriever import ScoredChunk
from aihub.documents.serializers import search_result
from aihub.recsys.schemas import NextItemsRequest, RecommendationsRequest, TrendingRequest
from aihub.recsys.service import PredictionService

MOST_RESULTS = 20
"""More than a small model reads well."""

VECTOR_STORE = "vector_store_id"

_ID = {"type": "integer", "minimum": 0}
_COUNTS = frozenset({"n", "top_k", "max_num_results"})
_COUNT = {"type": "integer", "minimum": 1, "maximum": MOST_RESULTS}


@dataclass(frozen=True, slots=True)
class _Definition:
    """What the model is told of a tool.

    Attributes:
        parameters: JSON Schemas by name.
        optional: Names that the model may leave out.
    """

    description: str
    parameters: Mapping[str, Any]
    optional: frozenset[str] = frozenset()


_DEFINITIONS: Mapping[str, _Definition] = {
    "recommend": _Definition(
        "Products of a shop that a customer may like, best first. Use it when somebody asks what to buy.",
        {
            "store_id": _ID | {"description": "The shop."},
            "user_id": _ID | {"description": "The customer."},
            "n": _COUNT | {"description": "How many products."},
        },
        frozenset({"n"}),
    ),
    "trending": _Definition(
        "Products that will sell most in a shop's next period, best first.",
        {"store_id": _ID | {"description": "The shop."}, "n": _COUNT | {"description": "How many products."}},
        frozenset({"n"}),
    ),
    "next_item": _Definition(
        "Products that customers go on to buy after the given ones, most likely first.",
        {
            "store_id": _ID | {"description": "The shop."},
            "item_history": {"type": "array", "items": _ID, "maxItems": 100, "description": "Product ids, oldest first."},
            "top_k": _COUNT | {"description": "How many products."},
        },
        frozenset({"top_k"}),
    ),
    "search_documents": _Definition(
        "Passages of the documents that answer a question, best first.",
        {
            VECTOR_STORE: {"type": "string", "description": "The vector store."},
            "query": {"type": "string", "minLength": 1, "description": "What to look for, as a question."},
            "max_num_results": _COUNT | {"description": "How many passages."},
        },
        frozenset({"max_num_results"}),
    ),
}


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call came to.

    Attributes:
        arguments: All of them, the fixed ones included.
        answer: The REST API's answer, or its error object.
        chunks: Passages of documents in it, with their places.
        note: What the model is told beside the answer; None for nothing.
    """

    name: str
    arguments: Mapping[str, Any]
    answer: Mapping[str, Any]
    failed: bool = False
    chunks: tuple[ScoredChunk, ...] = ()
    note: str | None = None

    @property
    def model_version(self) -> str | None:
        """Version of the shop's model that answered; None for documents and failures."""
        return self.answer.get("model_version")

    def text(self) -> str:
        """Return what the model reads."""
        told = self.answer if self.note is None else {**self.answer, "note": self.note}
        return json.dumps(told, ensure_ascii=False, separators=(",", ":"))


def function_of(tool: HubTool) -> Tool:
    """Return a tool as the function that a model may call, without the parameters that are fixed."""
    definition = _DEFINITIONS[tool.name]
    free = {name: schema for name, schema in definition.parameters.items() if name not in tool.arguments}
    required = [name for name in free if name not in definition.optional]
    parameters = {"type": "object", "properties": free, "required": required, "additionalProperties": False}
    return Tool(type="function", function=Function(name=tool.name, description=definition.description, parameters=parameters))


def check_arguments(principal: Principal, tool: HubTool, param: str) -> None:
    """Refuse fixed arguments that the tool does not have or that have a wrong value, before a model is asked.

    Raises:
        InvalidRequestError: Names the argument.
        PermissionDeniedError: The caller's key is not for the vector store.
    """
    known = _DEFINITIONS[tool.name].parameters
    for name in tool.arguments:
        if name not in known:
            raise InvalidRequestError(
                f"The tool {tool.name!r} has no argument {name[:64]!r}; it has {', '.join(known)}.",
                param=f"{param}.arguments.{name[:64]}",
            )
        if _is_too_many(name, tool.arguments[name]):
            raise InvalidRequestError(
                f"The tool {tool.name!r} gives at most {MOST_RESULTS} results.", param=f"{param}.arguments.{name}"
            )
    # What the model will choose is filled in by values that fit, so that what is fixed is checked by the API's own types.
    fitting: dict[str, Any] = {"store_id": 0, "user_id": 0, "item_history": [], "query": "?", VECTOR_STORE: "vs_0"}
    values = {name: value for name, value in fitting.items() if name in known} | tool.arguments
    try:
        _request_of(tool.name, values)
    except InvalidRequestError as error:
        raise InvalidRequestError(error.message, param=f"{param}.arguments.{error.param}", code=error.code) from error
    if VECTOR_STORE in tool.arguments:
        principal.require_vector_stores([tool.arguments[VECTOR_STORE]], f"{param}.arguments.{VECTOR_STORE}")


def _request_of(name: str, values: Mapping[str, Any]) -> BaseModel:
    """Return the REST API's request.

    Raises:
        InvalidRequestError: A value is missing or wrong.
    """
    counted = {key: MOST_RESULTS if _is_too_many(key, value) else value for key, value in values.items()}
    if name == "recommend":
        return validate(RecommendationsRequest, counted)
    if name == "trending":
        return validate(TrendingRequest, counted)
    if name == "next_item":
        return validate(NextItemsRequest, counted)
    store_id = counted.pop(VECTOR_STORE, None)
    if not isinstance(store_id, str) or not store_id:
        raise InvalidRequestError(f"'{VECTOR_STORE}' must be the id of a vector store.", param=VECTOR_STORE)
    return validate(SearchRequest, counted)


def _is_too_many(key: str, value: Any) -> bool:
    return key in _COUNTS and isinstance(value, int) and value > MOST_RESULTS


def _note_of(values: Mapping[str, Any]) -> str | None:
    """Say that a model asked for more results than it gets, so that it does not take them for all there are."""
    too_many = next((key for key, value in values.items() if _is_too_many(key, value)), None)
    return None if too_many is None else f"'{too_many}' counts as {MOST_RESULTS}: the tool gives at most so many results."


class ChunkSearch(Protocol):
    """`aihub.documents.vector_stores.VectorStores`."""

    async def find_chunks(self, principal: Principal, store_id: str, request: SearchRequest) -> Sequence[ScoredChunk]: ...


class HubTools:
    """Runs the tools by the services behind the REST API.

    Args:
        recsys: Answers `recommend`, `trending` and `next_item`.
        documents: Answers `search_documents`.
    """

    def __init__(self, recsys: PredictionService, documents: ChunkSearch) -> None:
        self._recsys = recsys
        self._documents = documents

    async def run(self, principal: Principal, tool: HubTool, arguments: Mapping[str, Any] | None) -> ToolResult:
        """Run one call. What is wrong or away is an answer too, which the model reads.

        Args:
            arguments: The model's; None when they were no JSON object, as of a call that `max_tokens` cut: what is fixed may do.
        """
        chosen = {name: value for name, value in (arguments or {}).items() if name in _DEFINITIONS[tool.name].parameters}
        values = chosen | tool.arguments
        try:
            return await self._ask(principal, tool.name, values)
        except HubError as error:
            return ToolResult(tool.name, values, error.to_openai(), failed=True)

    async def _ask(self, principal: Principal, name: str, values: Mapping[str, Any]) -> ToolResult:
        request = _request_of(name, values)
        if isinstance(request, SearchRequest):
            store_id = str(values[VECTOR_STORE])
            principal.require_vector_stores([store_id], VECTOR_STORE)
            chunks = tuple(await self._documents.find_chunks(principal, store_id, request))
            found = SearchResults(search_query=request.queries, data=[search_result(chunk) for chunk in chunks])
            return ToolResult(name, values, found.model_dump(mode="json"), chunks=chunks, note=_note_of(values))
        answer = await self._predict(principal, request)
        return ToolResult(name, values, answer.model_dump(mode="json"), note=_note_of(values))

    async def _predict(self, principal: Principal, request: BaseModel) -> BaseModel:
        if isinstance(request, RecommendationsRequest):
            return await self._recsys.recommendations(principal, request)
        if isinstance(request, TrendingRequest):
            return await self._recsys.trending(principal, request)
        assert isinstance(request, NextItemsRequest)  # noqa: S101  # the only other one
        return await self._recsys.next_items(principal, request)
