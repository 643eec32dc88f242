"""The file and vector store services on real tables: what a search merges, what a failure leaves, what ids are asked for."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aihub.core.errors import NotFoundError, PayloadTooLargeError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from aihub.documents.files import Files, known_id
from aihub.documents.schemas import SearchRequest, VectorStoreCreate, VectorStoreUpdate
from aihub.documents.search.retriever import Retrieval, ScoredChunk
from aihub.documents.vector_stores import VectorStores
from tests.storage_parts import Documents, pieces
from tests.unit.documents.ingest_parts import SteeredEmbedder
from tests.unit.pipelines.rag_parts import chunk


class ScriptedRetriever:
    """Answers each query from a script and remembers what was asked."""

    def __init__(self, script: dict[str, list[ScoredChunk]]) -> None:
        self.script = script
        self.asked: list[dict[str, Any]] = []

    async def retrieve(self, tenant_id: str, stores: list[Any], query: str, **options: Any) -> Retrieval:
        self.asked.append({"tenant": tenant_id, "stores": [store.id for store in stores], "query": query} | options)
        return Retrieval(hits=self.script[query], timings_ms={})


@pytest.fixture
def caller(tenant: str) -> Principal:
    return Principal(tenant)


@pytest.fixture
def documents(database: Database, tenant: str) -> Documents:
    return Documents(database, tenant)


def vector_stores(
    documents: Documents, retriever: ScriptedRetriever | None = None, nudges: list[None] | None = None
) -> VectorStores:
    return VectorStores(
        files=documents.files,
        stores=documents.stores,
        store_files=documents.links,
        retriever=retriever or ScriptedRetriever({}),
        embedder=SteeredEmbedder(),
        nudge=lambda: None if nudges is None else nudges.append(None),
    )


def scored(rank: int, score: float) -> ScoredChunk:
    base = chunk(f"đoạn {rank}", rank=rank)
    return ScoredChunk(hit=base.hit, score=score, text_score=None, vector_score=None)


async def test_queries_are_merged_by_the_best_score_of_each_chunk(documents: Documents, caller: Principal) -> None:
    retriever = ScriptedRetriever({"a": [scored(1, 0.9), scored(2, 0.2)], "b": [scored(2, 0.8), scored(3, 0.1)]})
    service = vector_stores(documents, retriever)
    store = await service.create(caller, VectorStoreCreate())
    body = {"query": ["a", "b"], "max_num_results": 2, "mode": "vector", "filters": {"type": "eq", "key": "k", "value": 1}}
    found = await service.search(caller, store.id, validate(SearchRequest, body))
    assert [(hit.file_id, hit.score) for hit in found.data] == [("file-1", 0.9), ("file-2", 0.8)]
    assert found.search_query == ["a", "b"]
    assert retriever.asked == [
        {
            "tenant": caller.tenant_id,
            "stores": [store.id],
            "query": query,
            "top_k": 2,
            "mode": "vector",
            "filters": {"type": "eq", "key": "k", "value": 1},
        }
        for query in ("a", "b")
    ]


async def test_hits_under_the_threshold_are_dropped(documents: Documents, caller: Principal) -> None:
    service = vector_stores(documents, ScriptedRetriever({"a": [scored(1, 0.9), scored(2, 0.5), scored(3, 0.49)]}))
    store = await service.create(caller, VectorStoreCreate())
    body = {"query": "a", "ranking_options": {"ranker": "auto", "score_threshold": 0.5}}
    found = await service.search(caller, store.id, validate(SearchRequest, body))
    assert [hit.score for hit in found.data] == [0.9, 0.5]


async def test_absent_fields_stay_and_null_clears(documents: Documents, caller: Principal) -> None:
    service = vector_stores(documents)
    given = {"name": "Luật", "metadata": {"a": "b"}, "expires_after": {"anchor": "last_active_at", "days": 3}}
    store = await service.create(caller, validate(VectorStoreCreate, given))
    renamed = await service.update(caller, store.id, validate(VectorStoreUpdate, {"name": "Luật mới"}))
    assert (renamed.name, renamed.metadata, renamed.expires_after) == ("Luật mới", {"a": "b"}, store.expires_after)
    cleared = await service.update(caller, store.id, validate(VectorStoreUpdate, {"metadata": None, "expires_after": None}))
    assert (cleared.name, cleared.metadata, cleared.expires_after, cleared.expires_at) == ("Luật mới", {}, None, None)


async def test_worker_is_nudged_only_when_there_is_work(documents: Documents, caller: Principal) -> None:
    nudges: list[None] = []
    service = vector_stores(documents, nudges=nudges)
    await service.create(caller, VectorStoreCreate())
    assert nudges == []
    file = await documents.file()
    store = await service.create(caller, validate(VectorStoreCreate, {"file_ids": [file.id]}))
    assert len(nudges) == 1
    assert store.status == "in_progress"


async def test_upload_over_the_limit_leaves_nothing(documents: Documents, caller: Principal) -> None:
    service = Files(documents.files, max_bytes=10)
    with pytest.raises(PayloadTooLargeError):
        await service.upload(caller, filename="a", purpose="assistants", content=pieces(b"x" * 11))
    assert (await service.list(caller, limit=10, after=None, order="desc", purpose=None)).data == []


async def test_upload_broken_off_leaves_nothing(documents: Documents, caller: Principal) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 2**20
        raise ConnectionResetError

    service = Files(documents.files, max_bytes=2**30)
    with pytest.raises(ConnectionResetError):
        await service.upload(caller, filename="a", purpose="assistants", content=broken())
    assert (await service.list(caller, limit=10, after=None, order="desc", purpose=None)).data == []


async def test_content_of_a_missing_file_fails_before_the_first_byte(documents: Documents, caller: Principal) -> None:
    with pytest.raises(NotFoundError):
        await Files(documents.files, max_bytes=10).content(caller, "file-none")


@pytest.mark.parametrize("value", ["", "a\x00b", "../etc", "a b", "ð", "x" * 65, "'--"])
def test_impossible_id_is_not_found_without_asking_the_database(value: str) -> None:
    with pytest.raises(NotFoundError):
        known_id(value, "file")
