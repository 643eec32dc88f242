"""Answers from the caller's documents: retrieve, build the prompt, let the model answer, cite what supports it."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol

from aihub.chat.content import asked_content
from aihub.chat.markers import neutralise_markers
from aihub.chat.messages import UserMessage
from aihub.chat.schemas import ChatCompletionRequest, RetrievalOptions
from aihub.chat.service import ChatEngine, hold
from aihub.core.errors import InvalidRequestError, NotFoundError
from aihub.core.filters import filter_tree
from aihub.core.principal import Principal
from aihub.core.sse import data_event, events, payload
from aihub.documents.search.retriever import Retrieval, ScoredChunk
from aihub.documents.serializers import require_same_model
from aihub.documents.tables.records import StoreVersion, VectorStoreRecord
from aihub.documents.time_spans import time_fields
from aihub.embeddings.service import Embedder
from pipelines.answer_basis import read_source_versions
from pipelines.citations import find_citations
from pipelines.context_packing import SourceText, pack_sources
from pipelines.prompts import Prompts
from pipelines.query import QueryChooser, SearchQuery
from pipelines.sentence_index import CitableSource
from pipelines.streamed_answer import StreamedAnswer

MIN_RELEVANCE = 0.1
"""Score below which a chunk is no source. Low, as a question like "and on Sundays?" has few words to be found by."""


class ChunkFinder(Protocol):
    """`aihub.documents.search.retriever.Retriever`."""

    async def retrieve(
        self,
        tenant_id: str,
        stores: list[VectorStoreRecord],
        query: str,
        *,
        top_k: int,
        mode: str,
        filters: dict[str, Any] | None = None,
    ) -> Retrieval: ...


class StoreDirectory(Protocol):
    """`aihub.documents.tables.vector_stores.VectorStoreTable`."""

    async def get_many(self, tenant_id: str, store_ids: Sequence[str]) -> list[VectorStoreRecord]:
        """Return the stores in the order asked; `NotFoundError` names a missing one."""
        ...

    async def touch(self, tenant_id: str, store_ids: Sequence[str]) -> None: ...

    async def content_versions(self, tenant_id: str, store_ids: Sequence[str]) -> list[StoreVersion]: ...


@dataclass(frozen=True, slots=True)
class Grounding:
    """A question made ready: the engine's body and what it was built from.

    Attributes:
        used: Ranks (from 1) of the chunks that are in the prompt, where they are numbered by rank.
        timings_ms: Time of each stage so far.
    """

    body: dict[str, Any]
    question: str
    query: SearchQuery
    options: RetrievalOptions
    chunks: Sequence[ScoredChunk]
    used: frozenset[int]
    timings_ms: dict[str, float]
    started_s: float


class RagPipeline:
    """Chat answers with sources.

    Args:
        prompts: Templates; may be replaced while requests run.
    """

    def __init__(self, *, finder: ChunkFinder, stores: StoreDirectory, embedder: Embedder, prompts: Prompts) -> None:
        self._finder = finder
        self._stores = stores
        self._embedder = embedder
        self._queries = QueryChooser(embedder)
        self.prompts = prompts

    async def answer(self, principal: Principal, engine: ChatEngine, request: ChatCompletionRequest) -> dict[str, Any]:
        """Answer with OpenAI's `chat.completion`, `annotations` in every message and a top-level `retrieval` object.

        Raises:
            NotFoundError: A vector store that does not exist or has expired.
            ConflictError: One built with another embedding model.
            StorageUnavailableError: PostgreSQL does not answer; there is never an unsourced answer instead.
            ContextLengthError: The conversation, or not even one source beside it, fits the model's context.
        """
        with hold(engine):  # a search asks nothing of the model, which must stay all the same
            grounding = await self.ground(principal, engine, request)
            asked_s = time.perf_counter()
            answer = await engine.chat(grounding.body)
        timings = {"generate": _ms_since(asked_s)}
        texts = {choice["index"]: choice["message"].get("content") or "" for choice in answer["choices"]}
        annotations, report = await _conclude(grounding, texts, timings)
        for choice in answer["choices"]:
            choice["message"]["annotations"] = annotations[choice["index"]]
        return answer | {"retrieval": report}

    async def stream(self, principal: Principal, engine: ChatEngine, request: ChatCompletionRequest) -> AsyncGenerator[str, None]:
        """Yield the engine's frames, and before `usage` and `[DONE]` one chunk with the annotations and `retrieval`.

        Raises before the first frame what `answer` raises.
        """
        with hold(engine):
            async with aclosing(self._stream(principal, engine, request)) as frames:
                async for frame in frames:
                    yield frame

    async def _stream(
        self, principal: Principal, engine: ChatEngine, request: ChatCompletionRequest
    ) -> AsyncGenerator[str, None]:
        grounding = await self.ground(principal, engine, request)
        heard = StreamedAnswer()
        concluded = False
        async with aclosing(engine.stream_chat(grounding.body)) as frames:
            async for frame in frames:
                for event in events(frame):
                    chunk = payload(event)
                    heard.listen(chunk)
                    if not concluded and heard.is_complete(event, chunk):
                        concluded = True
                        yield await _last_chunk(grounding, heard)
                    yield event

    async def ground(self, principal: Principal, engine: ChatEngine, request: ChatCompletionRequest) -> Grounding:
        """Find the sources of a request and build the body the engine answers from."""
        started_s = time.perf_counter()
        options = request.retrieval
        if options is None:
            raise ValueError("the request asks for no retrieval")
        special_tokens = (await engine.model_info()).special_tokens
        message = _asking_message(request)
        question = message.question
        query, found = await self.find(principal, question, options)
        found_s = time.perf_counter()
        relevant = [chunk for chunk in found.hits if chunk.score >= _threshold(options)]
        sources = [
            SourceText(rank, chunk.hit.filename, neutralise_markers(chunk.hit.text, special_tokens))
            for rank, chunk in enumerate(relevant, start=1)
        ]
        prompt = await pack_sources(
            engine,
            request.to_engine_body(special_tokens),
            asked_content(message, special_tokens),
            template=self.prompts.for_text(question),
            sources=sources,
            reserve=request.answer_tokens,
        )
        timings = {**found.timings_ms, "prompt": _ms_since(found_s)}
        return Grounding(prompt.body, question, query, options, found.hits, prompt.used, timings, started_s)

    async def find(self, principal: Principal, question: str, options: RetrievalOptions) -> tuple[SearchQuery, Retrieval]:
        """Return what is searched by for a question, and what it finds; raises what a search of `answer` raises."""
        stores = await self.open_stores(principal, options)
        query = await self._query(question, options)
        found = await self._finder.retrieve(
            principal.tenant_id, stores, query.text, top_k=options.top_k, mode=options.mode, filters=filter_tree(options.filters)
        )
        return query, found

    def with_finder(self, wrap: Callable[[ChunkFinder], ChunkFinder]) -> "RagPipeline":
        """Return a pipeline of the same parts that searches by `wrap` of this one's finder."""
        other = copy(self)
        other._finder = wrap(self._finder)
        return other

    async def open_stores(self, principal: Principal, options: RetrievalOptions) -> list[VectorStoreRecord]:
        """Return the stores that are searched, which now count as used; raises what `answer` raises of them."""
        ids = list(dict.fromkeys(options.vector_store_ids))
        principal.require_vector_stores(ids, "retrieval.vector_store_ids")
        stores = await self._stores.get_many(principal.tenant_id, ids)
        for store in stores:
            if store.status == "expired":
                raise NotFoundError(
                    f"Vector store {store.id} has expired. Create a new one and attach the files again.",
                    param="retrieval.vector_store_ids",
                )
            if options.mode != "text":
                require_same_model(store, await self._embedder.model_info())
        await self._stores.touch(principal.tenant_id, ids)
        return stores

    async def read_versions(self, principal: Principal, options: RetrievalOptions) -> tuple[str, ...] | None:
        """Return the versions of all that an answer with sources is made of; see `pipelines.answer_basis`."""
        sources = await read_source_versions(principal, options, self._stores, self._embedder)
        return None if sources is None else (*sources, self.prompts.version)

    async def _query(self, question: str, options: RetrievalOptions) -> SearchQuery:
        # Search by words has no length limit and needs no embedder.
        return SearchQuery(question, is_shortened=False) if options.mode == "text" else await self._queries.choose(question)


async def _last_chunk(grounding: Grounding, heard: StreamedAnswer) -> str:
    timings = {"generate": _ms_since(heard.started_s)}
    if heard.first_token_s is not None:
        timings["first_token"] = (heard.first_token_s - heard.started_s) * 1000.0
    texts = {index: "".join(parts) for index, parts in heard.texts.items()}
    annotations, report = await _conclude(grounding, texts, timings)
    # No `content` in the delta and no second finish reason: OpenAI's stream helper counts both.
    choices = [
        {"index": index, "delta": {"annotations": annotations[index]}, "finish_reason": None} for index in sorted(annotations)
    ]
    return data_event(heard.head | {"choices": choices, "retrieval": report})


async def _conclude(
    grounding: Grounding, texts: Mapping[int, str], timings_ms: Mapping[str, float]
) -> tuple[dict[int, list[dict[str, Any]]], dict[str, Any]]:
    """Return the annotations of each choice and the `retrieval` object."""
    started_s = time.perf_counter()
    annotations = await asyncio.to_thread(_annotate, grounding, texts)
    timings = {**grounding.timings_ms, **timings_ms, "cite": _ms_since(started_s), "total": _ms_since(grounding.started_s)}
    report = {
        "mode": grounding.options.mode,
        "vector_store_ids": list(dict.fromkeys(grounding.options.vector_store_ids)),
        "search_query": grounding.query.text,
        "search_query_shortened": grounding.query.is_shortened,
        "chunks": [_chunk_object(chunk, used=rank in grounding.used) for rank, chunk in enumerate(grounding.chunks, start=1)],
        "timings_ms": {stage: round(duration, 3) for stage, duration in timings.items()},
    }
    return annotations, report


def _annotate(grounding: Grounding, texts: Mapping[int, str]) -> dict[int, list[dict[str, Any]]]:
    sources = [
        CitableSource(rank, chunk.hit.file_id, chunk.hit.filename, chunk.hit.text, chunk.hit.start_char, chunk.hit.time_spans)
        for rank, chunk in enumerate(grounding.chunks, start=1)
        if rank in grounding.used
    ]
    return {
        index: [citation.annotation() for citation in find_citations(text, grounding.question, sources)]
        for index, text in texts.items()
    }


def _chunk_object(chunk: ScoredChunk, *, used: bool) -> dict[str, Any]:
    hit = chunk.hit
    return {
        "file_id": hit.file_id,
        "filename": hit.filename,
        "vector_store_id": hit.store_id,
        "chunk_index": hit.ordinal,
        "text": hit.text,
        "score": round(chunk.score, 6),
        "start_char": hit.start_char,
        "end_char": hit.end_char,
        "used": used,
        "attributes": hit.attributes,
        **time_fields(hit.time_spans, hit.start_char, hit.end_char),
    }


def _threshold(options: RetrievalOptions) -> float:
    """Return the least score of a source; the scores of one ranker alone are on no common scale."""
    if options.score_threshold is not None:
        return options.score_threshold
    return MIN_RELEVANCE if options.mode == "hybrid" else 0.0


def _asking_message(request: ChatCompletionRequest) -> UserMessage:
    message = next((message for message in reversed(request.messages) if isinstance(message, UserMessage)), None)
    if message is None or not message.question.strip():
        raise InvalidRequestError(
            "Retrieval searches by the last message of role 'user'; there is none, or it is empty.", param="messages"
        )
    return message


def _ms_since(start_s: float) -> float:
    return (time.perf_counter() - start_s) * 1000.0
