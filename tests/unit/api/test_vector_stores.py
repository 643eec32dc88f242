"""/v1/vector_stores over real parts: the official client's whole path, and what bad requests get."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import psycopg
import pytest
from fastapi import FastAPI

from aihub.documents.parse import DocumentParser
from aihub.errors import ModelUnavailableError
from aihub.storage.embedded import StoreUrls
from aihub.storage.postgres import Database
from tests.unit.api.conftest import assert_refused
from tests.unit.api.document_hub import Clients, DocumentHub, document_hub, official_clients
from tests.unit.pipelines.ingest_parts import MODEL, SteeredEmbedder, started_parser

LABOUR = "Người lao động được nghỉ phép mười hai ngày mỗi năm. Tiền lương được trả hằng tháng."
RENT = "Bên thuê nhà phải trả tiền đặt cọc. Hợp đồng thuê có thời hạn một năm."


@pytest.fixture(scope="module")
def parser() -> Iterator[DocumentParser]:
    with started_parser() as parser:
        yield parser


@pytest.fixture
def embedder() -> SteeredEmbedder:
    return SteeredEmbedder()


@pytest.fixture
async def hub(
    app: FastAPI, database: Database, tenant: str, parser: DocumentParser, embedder: SteeredEmbedder
) -> AsyncIterator[DocumentHub]:
    async with document_hub(app, database, tenant, parser, embedder) as running:
        yield running


@pytest.fixture
async def clients(hub: DocumentHub) -> AsyncIterator[Clients]:
    async with official_clients(hub.app) as both:
        yield both


async def created(hub: DocumentHub, **body: Any) -> dict[str, Any]:
    answer = await hub.http.post("/v1/vector_stores", json=body)
    assert answer.status_code == 200, answer.text
    store: dict[str, Any] = answer.json()
    return store


async def uploaded(hub: DocumentHub, text: str = LABOUR, filename: str = "luật.txt") -> str:
    answer = await hub.http.post("/v1/files", files={"file": (filename, text.encode())}, data={"purpose": "assistants"})
    return str(answer.json()["id"])


async def indexed(hub: DocumentHub, store_id: str, text: str = LABOUR, **body: Any) -> str:
    file_id = await uploaded(hub, text)
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id} | body)
    assert answer.status_code == 200, answer.text
    assert (await hub.ingest.finished(store_id, file_id)).status == "completed"
    return file_id


async def search(hub: DocumentHub, store_id: str, query: Any, **body: Any) -> list[dict[str, Any]]:
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": query} | body)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


async def assert_good_search(hub: DocumentHub) -> None:
    store_id = (await created(hub))["id"]
    file_id = await indexed(hub, store_id)
    assert [hit["file_id"] for hit in await search(hub, store_id, "nghỉ phép")] == [file_id]


async def test_official_client_walks_the_whole_path(clients: Clients) -> None:
    client = clients.asynchronous
    store = await client.vector_stores.create(
        name="Luật",
        description="Văn bản luật",
        metadata={"nhóm": "pháp chế"},
        expires_after={"anchor": "last_active_at", "days": 7},
    )
    assert (store.object, store.status, store.name, store.metadata) == ("vector_store", "completed", "Luật", {"nhóm": "pháp chế"})
    assert store.expires_after is not None
    assert store.expires_at == store.created_at + 7 * 86_400

    file = await client.files.create(file=("lao động.txt", LABOUR.encode()), purpose="assistants")
    assert (await client.files.wait_for_processing(file.id)).status == "processed"
    attached = await client.vector_stores.files.create_and_poll(
        file.id, vector_store_id=store.id, attributes={"năm": 2019, "loại": "lao động"}
    )
    assert (attached.object, attached.status, attached.last_error) == ("vector_store.file", "completed", None)
    assert attached.attributes == {"năm": 2019, "loại": "lao động"}
    rent = await client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id,
        file=("thuê nhà.md", RENT.encode()),
        attributes={"năm": 2023, "loại": "dân sự"},
        chunking_strategy={"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}},
    )
    assert rent.chunking_strategy is not None
    assert rent.chunking_strategy.model_dump() == {
        "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20},
        "type": "static",
    }

    # The test's embedder knows a text only by its exact words, so ask by words.
    page = await client.vector_stores.search(
        store.id, query="tiền đặt cọc thuê nhà", max_num_results=2, extra_body={"mode": "text"}
    )
    assert (page.data[0].file_id, page.data[0].filename) == (rent.id, "thuê nhà.md")
    assert page.data[0].content[0].text == RENT
    assert page.data[0].score >= page.data[-1].score
    newer = await client.vector_stores.search(
        store.id, query="tiền lương", filters={"type": "and", "filters": [{"type": "gte", "key": "năm", "value": 2020}]}
    )
    assert {hit.file_id for hit in newer.data} == {rent.id}

    listed = [item.id async for item in client.vector_stores.files.list(store.id, limit=1)]
    assert listed == [rent.id, file.id]
    assert [item.id async for item in client.vector_stores.files.list(store.id, filter="failed")] == []
    content = await client.vector_stores.files.content(file.id, vector_store_id=store.id)
    assert content.data[0].text == LABOUR

    updated = await client.vector_stores.files.update(file.id, vector_store_id=store.id, attributes={"năm": 2024})
    assert updated.attributes == {"năm": 2024}
    filtered = await client.vector_stores.search(
        store.id, query="tiền lương", filters={"type": "eq", "key": "năm", "value": 2024}
    )
    assert {hit.file_id for hit in filtered.data} == {file.id}

    changed = await client.vector_stores.update(store.id, name="Luật mới", expires_after=None, metadata=None)
    assert (changed.name, changed.expires_after, changed.metadata) == ("Luật mới", None, {})
    assert (changed.file_counts.completed, changed.file_counts.total) == (2, 2)
    assert changed.usage_bytes > 0
    assert (await client.vector_stores.retrieve(store.id)).name == "Luật mới"
    second = await client.vector_stores.create()
    assert [item.id async for item in client.vector_stores.list(limit=1, order="asc")] == [store.id, second.id]

    detached = await client.vector_stores.files.delete(rent.id, vector_store_id=store.id)
    assert (detached.id, detached.deleted, detached.object) == (rent.id, True, "vector_store.file.deleted")
    assert {hit.file_id for hit in (await client.vector_stores.search(store.id, query="đặt cọc")).data} <= {file.id}
    assert (await client.files.retrieve(rent.id)).filename == "thuê nhà.md"
    await client.files.delete(file.id)
    assert (await client.vector_stores.search(store.id, query="tiền lương")).data == []
    deleted = await client.vector_stores.delete(store.id)
    assert (deleted.deleted, deleted.object) == (True, "vector_store.deleted")
    with pytest.raises(openai.NotFoundError):
        await client.vector_stores.retrieve(store.id)


async def test_blocking_client_polls_and_reads_the_reason_of_a_failure(clients: Clients) -> None:
    client = clients.sync

    def walk() -> tuple[str, str]:
        store = client.vector_stores.create(name="Kho")
        file = client.vector_stores.files.upload_and_poll(vector_store_id=store.id, file=("a.exe", b"\x00\x01\x02" * 100))
        assert file.last_error is not None
        return file.status, file.last_error.code

    assert await asyncio.to_thread(walk) == ("failed", "unsupported_file")


async def test_store_created_with_files_indexes_them(hub: DocumentHub) -> None:
    files = [await uploaded(hub, LABOUR), await uploaded(hub, RENT)]
    store = await created(hub, file_ids=[*files, files[0]])
    assert (store["status"], store["file_counts"]["total"]) == ("in_progress", 2)
    for file_id in files:
        assert (await hub.ingest.finished(store["id"], file_id)).status == "completed"
    assert (await hub.http.get(f"/v1/vector_stores/{store['id']}")).json()["status"] == "completed"


async def test_store_with_an_unknown_file_is_not_created(hub: DocumentHub) -> None:
    assert_refused(await hub.http.post("/v1/vector_stores", json={"file_ids": ["file-none"]}), 404)
    assert (await hub.http.get("/v1/vector_stores")).json()["data"] == []


async def test_polling_is_told_when_to_come_back(hub: DocumentHub, embedder: SteeredEmbedder) -> None:
    embedder.gate.clear()
    store_id, file_id = (await created(hub))["id"], await uploaded(hub)
    path = f"/v1/vector_stores/{store_id}/files"
    await hub.http.post(path, json={"file_id": file_id})
    waiting = await hub.http.get(f"{path}/{file_id}")
    assert (waiting.json()["status"], waiting.headers["openai-poll-after-ms"]) == ("in_progress", "250")
    assert_refused(await hub.http.get(f"{path}/{file_id}/content"), 409)
    embedder.gate.set()
    await hub.ingest.finished(store_id, file_id)
    assert "openai-poll-after-ms" not in (await hub.http.get(f"{path}/{file_id}")).headers


async def test_automatic_chunks_fit_the_embedder(hub: DocumentHub) -> None:
    store_id, file_id = (await created(hub))["id"], await uploaded(hub)
    for strategy in (None, {"type": "auto"}):
        answer = await hub.http.post(
            f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id, "chunking_strategy": strategy}
        )
        sizes = answer.json()["chunking_strategy"]["static"]
        assert sizes == {"max_chunk_size_tokens": 112, "chunk_overlap_tokens": 14}


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_each_mode_finds_the_document(hub: DocumentHub, mode: str) -> None:
    store_id = (await created(hub))["id"]
    file_id = await indexed(hub, store_id)
    await indexed(hub, store_id, RENT)
    # The test's embedder knows a text only by its exact words.
    hits = await search(hub, store_id, LABOUR, mode=mode, max_num_results=1)
    assert [hit["file_id"] for hit in hits] == [file_id]
    assert 0 <= hits[0]["score"] <= 1


async def test_vietnamese_is_found_without_tone_marks(hub: DocumentHub) -> None:
    store_id = (await created(hub))["id"]
    file_id = await indexed(hub, store_id)
    await indexed(hub, store_id, RENT)
    hits = await search(hub, store_id, "nghi phep muoi hai ngay", mode="text")
    assert hits[0]["file_id"] == file_id


async def test_several_queries_give_each_chunk_once(hub: DocumentHub) -> None:
    store_id = (await created(hub))["id"]
    files = {await indexed(hub, store_id), await indexed(hub, store_id, RENT)}
    hits = await search(hub, store_id, ["nghỉ phép", "đặt cọc", "tiền lương"], mode="text")
    assert {hit["file_id"] for hit in hits} == files
    assert len(hits) == 2
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


async def test_score_threshold_drops_the_rest(hub: DocumentHub) -> None:
    store_id = (await created(hub))["id"]
    await indexed(hub, store_id)
    assert await search(hub, store_id, "đặt cọc", mode="vector", ranking_options={"score_threshold": 0.99}) == []


async def test_query_longer_than_the_embedder_reads_is_refused_but_found_by_words(hub: DocumentHub) -> None:
    store_id = (await created(hub))["id"]
    file_id = await indexed(hub, store_id)
    body = {"query": "nghỉ phép mười hai ngày " * 50}
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/search", json=body)
    assert_refused(answer, 400, param="query", code="context_length_exceeded")
    assert [hit["file_id"] for hit in await search(hub, store_id, body["query"], mode="text")] == [file_id]


async def test_search_in_an_empty_store_finds_nothing(hub: DocumentHub) -> None:
    store_id = (await created(hub))["id"]
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "gì đó", "rewrite_query": True})
    assert answer.json() == {
        "object": "vector_store.search_results.page",
        "search_query": ["gì đó"],
        "data": [],
        "has_more": False,
        "next_page": None,
    }


async def test_filter_with_quotes_and_dots_is_data(hub: DocumentHub) -> None:
    store_id = (await created(hub))["id"]
    key, value = "a.b'] \"--", "O'Brien; DROP TABLE chunks; %s {x}"
    file_id = await indexed(hub, store_id, attributes={key: value})
    for filters, expected in (
        ({"type": "eq", "key": key, "value": value}, [file_id]),
        ({"type": "eq", "key": key, "value": "' OR '1'='1"}, []),
        ({"type": "ne", "key": key, "value": value}, []),
        ({"type": "in", "key": key, "value": [value]}, [file_id]),
    ):
        assert [hit["file_id"] for hit in await search(hub, store_id, "nghỉ phép", filters=filters)] == expected


@pytest.mark.parametrize(
    "body",
    [
        {"file_id": "file-none"},
        {"file_id": 1},
        {},
        {"file_id": "{file}", "attributes": {"k": "v" * 2**20}},
        {"file_id": "{file}", "attributes": {"k": None}},
        {"file_id": "{file}", "attributes": {f"k{number}": 1 for number in range(17)}},
        {"file_id": "{file}", "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 0}}},
        {
            "file_id": "{file}",
            "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 200}},
        },
        {"file_id": "{file}", "chunking_strategy": {"type": "magic"}},
    ],
)
async def test_bad_attachment_is_refused(hub: DocumentHub, body: dict[str, Any]) -> None:
    store_id, file_id = (await created(hub))["id"], await uploaded(hub)
    if body.get("file_id") == "{file}":
        body = body | {"file_id": file_id}
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/files", json=body)
    assert_refused(answer, 404 if body.get("file_id") == "file-none" else 400)
    assert (await hub.http.get(f"/v1/vector_stores/{store_id}/files")).json()["data"] == []
    await assert_good_search(hub)


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
    store_id = (await created(hub))["id"]
    assert_refused(await hub.http.post(f"/v1/vector_stores/{store_id}/search", json=body), 400)
    await assert_good_search(hub)


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "vs_none"}, {"before": "vs_none"}])
async def test_bad_list_parameters_are_refused(hub: DocumentHub, params: dict[str, Any]) -> None:
    store_id = (await created(hub))["id"]
    for path in ("", f"/{store_id}/files"):
        assert_refused(await hub.http.get(f"/v1/vector_stores{path}", params=params), 400)
    assert_refused(await hub.http.get(f"/v1/vector_stores/{store_id}/files", params={"filter": "done"}), 400)
    assert (await hub.http.get("/v1/vector_stores")).status_code == 200


async def test_stores_page_in_both_directions(hub: DocumentHub) -> None:
    ids = [(await created(hub, name=str(number)))["id"] for number in range(5)][::-1]
    first = (await hub.http.get("/v1/vector_stores", params={"limit": 2})).json()
    assert ([item["id"] for item in first["data"]], first["first_id"], first["last_id"]) == (ids[:2], ids[0], ids[1])
    second = (await hub.http.get("/v1/vector_stores", params={"limit": 2, "after": first["last_id"]})).json()
    assert ([item["id"] for item in second["data"]], second["has_more"]) == (ids[2:4], True)
    back = (await hub.http.get("/v1/vector_stores", params={"limit": 2, "before": second["first_id"]})).json()
    assert [item["id"] for item in back["data"]] == ids[:2]


async def test_other_tenants_see_nothing(hub: DocumentHub, tenant: str) -> None:
    store_id = (await created(hub, name="Mật"))["id"]
    file_id = await indexed(hub, store_id)
    hub.act_for(f"{tenant}-other")
    base = f"/v1/vector_stores/{store_id}"
    for method, path, body in (
        ("GET", "", None),
        ("POST", "", {"name": "của tôi"}),
        ("DELETE", "", None),
        ("POST", "/search", {"query": "nghỉ phép"}),
        ("GET", "/files", None),
        ("POST", "/files", {"file_id": file_id}),
        ("GET", f"/files/{file_id}", None),
        ("POST", f"/files/{file_id}", {"attributes": {}}),
        ("GET", f"/files/{file_id}/content", None),
        ("DELETE", f"/files/{file_id}", None),
    ):
        answer = await hub.http.request(method, base + path, json=body)
        assert_refused(answer, 404)
        assert "Mật" not in answer.text
    assert (await hub.http.get("/v1/vector_stores")).json()["data"] == []
    assert_refused(await hub.http.post("/v1/vector_stores", json={"file_ids": [file_id]}), 404)
    hub.act_for(tenant)
    assert (await hub.http.get(base)).json()["name"] == "Mật"


@pytest.mark.parametrize("store_id", ["vs_none", "..", "%00", "%27%20OR%201=1", "a" * 500])
async def test_unknown_store_is_not_found(hub: DocumentHub, store_id: str) -> None:
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "a"})
    assert answer.status_code in {400, 404, 405}, answer.text
    await assert_good_search(hub)


async def test_expired_store_is_gone_but_can_be_deleted(hub: DocumentHub, embedded_stores: StoreUrls) -> None:
    store_id = (await created(hub, expires_after={"anchor": "last_active_at", "days": 1}))["id"]
    with psycopg.connect(embedded_stores.database_url, autocommit=True) as connection:
        connection.execute("UPDATE vector_stores SET last_active_at = now() - interval '2 days' WHERE id = %s", (store_id,))
    error = assert_refused(await hub.http.get(f"/v1/vector_stores/{store_id}"), 404)
    assert "expired" in error["message"]
    assert_refused(await hub.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "a"}), 404)
    assert (await hub.http.get("/v1/vector_stores")).json()["data"][0]["status"] == "expired"
    assert (await hub.http.delete(f"/v1/vector_stores/{store_id}")).status_code == 200


async def test_store_of_another_embedding_model_is_refused_naming_both(hub: DocumentHub, embedder: SteeredEmbedder) -> None:
    store_id = (await created(hub))["id"]
    await indexed(hub, store_id)
    embedder.model_id = "other-model"
    other_file = await uploaded(hub, RENT)
    for path, body in (("/search", {"query": "nghỉ phép"}), ("/files", {"file_id": other_file})):
        error = assert_refused(await hub.http.post(f"/v1/vector_stores/{store_id}{path}", json=body), 409)
        assert error["code"] == "embedding_model_mismatch"
        assert f"'{MODEL}'" in error["message"]
        assert "'other-model'" in error["message"]
    assert len(await search(hub, store_id, "nghỉ phép", mode="text")) == 1


async def test_missing_embedder_answers_503_and_words_still_find(
    hub: DocumentHub, embedder: SteeredEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_id = (await created(hub))["id"]
    await indexed(hub, store_id)

    async def gone(*_: Any) -> None:
        raise ModelUnavailableError("The embedding model is loading.")

    monkeypatch.setattr(embedder, "embed", gone)
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "nghỉ phép", "mode": "vector"})
    assert_refused(answer, 503, code="model_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert len(await search(hub, store_id, "nghỉ phép", mode="text")) == 1


async def test_attached_twice_is_indexed_once(hub: DocumentHub) -> None:
    store_id = (await created(hub))["id"]
    file_id = await indexed(hub, store_id)
    again = await hub.http.post(f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id})
    assert again.json()["status"] == "completed"
    assert (await hub.http.get(f"/v1/vector_stores/{store_id}")).json()["file_counts"]["total"] == 1
    assert len(await search(hub, store_id, "nghỉ phép")) == 1


async def test_unknown_fields_of_newer_clients_are_ignored(hub: DocumentHub) -> None:
    store = await created(hub, name="Kho", from_the_future={"a": [1]})
    answer = await hub.http.post(
        f"/v1/vector_stores/{store['id']}/search",
        content=json.dumps({"query": "a", "x": 1}),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200
