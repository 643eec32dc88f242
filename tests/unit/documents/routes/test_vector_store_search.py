"""/v1/vector_stores/{id}/search over real parts: modes, filters, thresholds, and what bad searches get."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI

from aihub.core.errors import ModelUnavailableError
from aihub.core.postgres import Database
from aihub.documents.parsing.parser import DocumentParser
from tests.unit.conftest import assert_refused
from tests.unit.documents.ingest_parts import MODEL, SteeredEmbedder
from tests.unit.documents.media_parts import SteeredReader, spoken_text, wav
from tests.unit.documents.routes.document_hub import LABOUR, RENT, DocumentHub, document_hub


@pytest.fixture
def embedder() -> SteeredEmbedder:
    return SteeredEmbedder()


@pytest.fixture
async def hub(
    app: FastAPI, database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> AsyncIterator[DocumentHub]:
    async with document_hub(app, database, tenant, parser, embedder) as running:
        yield running


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_each_mode_finds_the_document(hub: DocumentHub, mode: str) -> None:
    store_id = (await hub.created())["id"]
    file_id = await hub.indexed(store_id)
    await hub.indexed(store_id, RENT)
    # The test's embedder knows a text only by its exact words.
    hits = await hub.search(store_id, LABOUR, mode=mode, max_num_results=1)
    assert [hit["file_id"] for hit in hits] == [file_id]
    assert 0 <= hits[0]["score"] <= 1


async def test_vietnamese_is_found_without_tone_marks(hub: DocumentHub) -> None:
    store_id = (await hub.created())["id"]
    file_id = await hub.indexed(store_id)
    await hub.indexed(store_id, RENT)
    hits = await hub.search(store_id, "nghi phep muoi hai ngay", mode="text")
    assert hits[0]["file_id"] == file_id


async def test_several_queries_give_each_chunk_once(hub: DocumentHub) -> None:
    store_id = (await hub.created())["id"]
    files = {await hub.indexed(store_id), await hub.indexed(store_id, RENT)}
    hits = await hub.search(store_id, ["nghỉ phép", "đặt cọc", "tiền lương"], mode="text")
    assert {hit["file_id"] for hit in hits} == files
    assert len(hits) == 2
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


async def test_score_threshold_drops_the_rest(hub: DocumentHub) -> None:
    store_id = (await hub.created())["id"]
    await hub.indexed(store_id)
    assert await hub.search(store_id, "đặt cọc", mode="vector", ranking_options={"score_threshold": 0.99}) == []


async def test_query_longer_than_the_embedder_reads_is_refused_but_found_by_words(hub: DocumentHub) -> None:
    store_id = (await hub.created())["id"]
    file_id = await hub.indexed(store_id)
    body = {"query": "nghỉ phép mười hai ngày " * 50}
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/search", json=body)
    assert_refused(answer, 400, param="query", code="context_length_exceeded")
    assert [hit["file_id"] for hit in await hub.search(store_id, body["query"], mode="text")] == [file_id]


async def test_search_in_an_empty_store_finds_nothing(hub: DocumentHub) -> None:
    store_id = (await hub.created())["id"]
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "gì đó", "rewrite_query": True})
    assert answer.json() == {
        "object": "vector_store.search_results.page",
        "search_query": ["gì đó"],
        "data": [],
        "has_more": False,
        "next_page": None,
    }


async def test_filter_with_quotes_and_dots_is_data(hub: DocumentHub) -> None:
    store_id = (await hub.created())["id"]
    key, value = "a.b'] \"--", "O'Brien; DROP TABLE chunks; %s {x}"
    file_id = await hub.indexed(store_id, attributes={key: value})
    for filters, expected in (
        ({"type": "eq", "key": key, "value": value}, [file_id]),
        ({"type": "eq", "key": key, "value": "' OR '1'='1"}, []),
        ({"type": "ne", "key": key, "value": value}, []),
        ({"type": "in", "key": key, "value": [value]}, [file_id]),
    ):
        assert [hit["file_id"] for hit in await hub.search(store_id, "nghỉ phép", filters=filters)] == expected


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": ""},
        {"query": "a", "max_num_results": 51},
        {"query": "a", "filters": {"type": "eq", "key": "k"}},
        {"query": "a", "filters": {"type": "and", "filters": [{"type": "and", "filters": []}]}},
        {"query": "a", "mode": "magic"},
    ],
)
async def test_bad_search_is_refused(hub: DocumentHub, body: dict[str, Any]) -> None:
    store_id = (await hub.created())["id"]
    assert_refused(await hub.http.post(f"/v1/vector_stores/{store_id}/search", json=body), 400)
    await hub.assert_good_search()


async def test_missing_embedder_answers_503_and_words_still_find(
    hub: DocumentHub, embedder: SteeredEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_id = (await hub.created())["id"]
    await hub.indexed(store_id)

    async def gone(*_: Any) -> None:
        raise ModelUnavailableError("The embedding model is loading.")

    monkeypatch.setattr(embedder, "embed", gone)
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "nghỉ phép", "mode": "vector"})
    assert_refused(answer, 503, code="model_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert len(await hub.search(store_id, "nghỉ phép", mode="text")) == 1


async def test_store_of_another_embedding_model_is_refused_naming_both(hub: DocumentHub, embedder: SteeredEmbedder) -> None:
    store_id = (await hub.created())["id"]
    await hub.indexed(store_id)
    embedder.model_id = "other-model"
    other_file = await hub.uploaded(RENT)
    for path, body in (("/search", {"query": "nghỉ phép"}), ("/files", {"file_id": other_file})):
        error = assert_refused(await hub.http.post(f"/v1/vector_stores/{store_id}{path}", json=body), 409)
        assert error["code"] == "embedding_model_mismatch"
        assert f"'{MODEL}'" in error["message"]
        assert "'other-model'" in error["message"]
    assert len(await hub.search(store_id, "nghỉ phép", mode="text")) == 1


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_chunks_of_recordings_carry_their_time_and_others_have_no_such_fields(
    app: FastAPI, database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder, mode: str
) -> None:
    talk = spoken_text("hôm nay nói về nghỉ phép năm")
    async with document_hub(app, database, tenant, parser, embedder, media_reader=SteeredReader(talk)) as hub:
        store_id = (await hub.created())["id"]
        uploaded = await hub.http.post(
            "/v1/files", files={"file": ("bài nói.wav", wav(), "audio/wav")}, data={"purpose": "assistants"}
        )
        recording = uploaded.json()["id"]
        await hub.http.post(f"/v1/vector_stores/{store_id}/files", json={"file_id": recording})
        assert (await hub.ingest.finished(store_id, recording)).status == "completed"
        document = await hub.indexed(store_id)
        hits = {hit["file_id"]: hit for hit in await hub.search(store_id, "nghỉ phép", mode=mode)}
        assert (hits[recording]["start_s"], hits[recording]["end_s"]) == (0.0, talk.spans[-1].end_s)
        assert set(hits[document]) == {"file_id", "filename", "score", "attributes", "content"}
        content = await hub.http.get(f"/v1/vector_stores/{store_id}/files/{recording}/content")
        assert [item["text"] for item in content.json()["data"]] == [talk.text]
