"""/v1/vector_stores over real parts: stores, attached files, tenants, and what bad requests get."""

import json
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI

from aihub.core.embedded.stores import StoreUrls
from aihub.core.postgres import Database
from aihub.documents.parsing.parser import DocumentParser
from tests.unit.conftest import assert_refused
from tests.unit.documents.ingest_parts import SteeredEmbedder
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


async def test_store_created_with_files_indexes_them(hub: DocumentHub) -> None:
    files = [await hub.uploaded(LABOUR), await hub.uploaded(RENT)]
    store = await hub.created(file_ids=[*files, files[0]])
    assert (store["status"], store["file_counts"]["total"]) == ("in_progress", 2)
    for file_id in files:
        assert (await hub.ingest.finished(store["id"], file_id)).status == "completed"
    assert (await hub.http.get(f"/v1/vector_stores/{store['id']}")).json()["status"] == "completed"


async def test_the_same_bytes_are_read_in_the_encoding_that_each_upload_names(hub: DocumentHub) -> None:
    """A text that was read in another encoding is not copied from the earlier upload."""
    store_id, data = (await hub.created())["id"], "Satış".encode("cp1254")
    texts = []
    for fields, content_type in [
        ({}, "text/plain"),
        ({"encoding": "windows-1254"}, "text/plain"),
        ({"encoding": "koi8-r"}, "text/plain"),
        ({}, "text/plain; charset=ISO-8859-9"),
        ({"encoding": "windows-1254"}, "text/plain; charset=koi8-r"),
    ]:
        answer = await hub.http.post(
            "/v1/files", files={"file": ("a.txt", data, content_type)}, data={"purpose": "assistants"} | fields
        )
        file_id = answer.json()["id"]
        await hub.http.post(f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id})
        finished = await hub.ingest.finished(store_id, file_id)
        if finished.status == "failed":
            assert finished.last_error is not None and "`encoding`" in finished.last_error["message"]
            texts.append(None)
        else:
            content = (await hub.http.get(f"/v1/vector_stores/{store_id}/files/{file_id}/content")).json()
            texts.append(content["data"][0]["text"])
    assert texts == [None, "Satış", data.decode("koi8-r"), "Satış", "Satış"]


@pytest.mark.parametrize(
    ("fields", "content_type"), [({"encoding": "klingon"}, "text/plain"), ({}, "text/plain; charset=klingon")]
)
async def test_an_unknown_encoding_is_refused_at_the_upload(hub: DocumentHub, fields: dict[str, str], content_type: str) -> None:
    answer = await hub.http.post(
        "/v1/files", files={"file": ("a.txt", b"a", content_type)}, data={"purpose": "assistants"} | fields
    )
    assert_refused(answer, 400, param="encoding" if fields else "file")


async def test_store_with_an_unknown_file_is_not_created(hub: DocumentHub) -> None:
    assert_refused(await hub.http.post("/v1/vector_stores", json={"file_ids": ["file-none"]}), 404)
    assert (await hub.http.get("/v1/vector_stores")).json()["data"] == []


async def test_polling_is_told_when_to_come_back(hub: DocumentHub, embedder: SteeredEmbedder) -> None:
    embedder.gate.clear()
    store_id, file_id = (await hub.created())["id"], await hub.uploaded()
    path = f"/v1/vector_stores/{store_id}/files"
    await hub.http.post(path, json={"file_id": file_id})
    waiting = await hub.http.get(f"{path}/{file_id}")
    assert (waiting.json()["status"], waiting.headers["openai-poll-after-ms"]) == ("in_progress", "250")
    assert_refused(await hub.http.get(f"{path}/{file_id}/content"), 409)
    embedder.gate.set()
    await hub.ingest.finished(store_id, file_id)
    assert "openai-poll-after-ms" not in (await hub.http.get(f"{path}/{file_id}")).headers


async def test_automatic_chunks_fit_the_embedder(hub: DocumentHub) -> None:
    store_id, file_id = (await hub.created())["id"], await hub.uploaded()
    for strategy in (None, {"type": "auto"}):
        answer = await hub.http.post(
            f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id, "chunking_strategy": strategy}
        )
        sizes = answer.json()["chunking_strategy"]["static"]
        assert sizes == {"max_chunk_size_tokens": 112, "chunk_overlap_tokens": 14}


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
    store_id, file_id = (await hub.created())["id"], await hub.uploaded()
    if body.get("file_id") == "{file}":
        body = body | {"file_id": file_id}
    answer = await hub.http.post(f"/v1/vector_stores/{store_id}/files", json=body)
    assert_refused(answer, 404 if body.get("file_id") == "file-none" else 400)
    assert (await hub.http.get(f"/v1/vector_stores/{store_id}/files")).json()["data"] == []
    await hub.assert_good_search()


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "vs_none"}, {"before": "vs_none"}])
async def test_bad_list_parameters_are_refused(hub: DocumentHub, params: dict[str, Any]) -> None:
    store_id = (await hub.created())["id"]
    for path in ("", f"/{store_id}/files"):
        assert_refused(await hub.http.get(f"/v1/vector_stores{path}", params=params), 400)
    assert_refused(await hub.http.get(f"/v1/vector_stores/{store_id}/files", params={"filter": "done"}), 400)
    assert (await hub.http.get("/v1/vector_stores")).status_code == 200


async def test_stores_page_in_both_directions(hub: DocumentHub) -> None:
    ids = [(await hub.created(name=str(number)))["id"] for number in range(5)][::-1]
    first = (await hub.http.get("/v1/vector_stores", params={"limit": 2})).json()
    assert ([item["id"] for item in first["data"]], first["first_id"], first["last_id"]) == (ids[:2], ids[0], ids[1])
    second = (await hub.http.get("/v1/vector_stores", params={"limit": 2, "after": first["last_id"]})).json()
    assert ([item["id"] for item in second["data"]], second["has_more"]) == (ids[2:4], True)
    back = (await hub.http.get("/v1/vector_stores", params={"limit": 2, "before": second["first_id"]})).json()
    assert [item["id"] for item in back["data"]] == ids[:2]


async def test_other_tenants_see_nothing(hub: DocumentHub, tenant: str) -> None:
    store_id = (await hub.created(name="Mật"))["id"]
    file_id = await hub.indexed(store_id)
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
    await hub.assert_good_search()


async def test_expired_store_is_gone_but_can_be_deleted(hub: DocumentHub, embedded_stores: StoreUrls) -> None:
    store_id = (await hub.created(expires_after={"anchor": "last_active_at", "days": 1}))["id"]
    with psycopg.connect(embedded_stores.database_url, autocommit=True) as connection:
        connection.execute("UPDATE vector_stores SET last_active_at = now() - interval '2 days' WHERE id = %s", (store_id,))
    error = assert_refused(await hub.http.get(f"/v1/vector_stores/{store_id}"), 404)
    assert "expired" in error["message"]
    assert_refused(await hub.http.post(f"/v1/vector_stores/{store_id}/search", json={"query": "a"}), 404)
    assert (await hub.http.get("/v1/vector_stores")).json()["data"][0]["status"] == "expired"
    assert (await hub.http.delete(f"/v1/vector_stores/{store_id}")).status_code == 200


async def test_key_for_one_vector_store_uses_no_other_and_sees_the_files_of_its_tenant(hub: DocumentHub, tenant: str) -> None:
    own, other = (await hub.created())["id"], (await hub.created())["id"]
    files = {await hub.indexed(own), await hub.indexed(other, RENT)}
    hub.act_for(tenant, vector_stores=frozenset({own}))
    assert await hub.search(own, "nghỉ phép")
    assert [store["id"] for store in (await hub.http.get("/v1/vector_stores")).json()["data"]] == [own]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/files"), ("POST", "/search")):
        body = {"query": "tiền"} if method == "POST" else None
        refused = await hub.http.request(method, f"/v1/vector_stores/{other}{path}", json=body)
        assert_refused(refused, 403, code="vector_store_not_allowed")
    assert {file["id"] for file in (await hub.http.get("/v1/files")).json()["data"]} == files  # as docs/accounts.md says


async def test_attached_twice_is_indexed_once(hub: DocumentHub) -> None:
    store_id = (await hub.created())["id"]
    file_id = await hub.indexed(store_id)
    again = await hub.http.post(f"/v1/vector_stores/{store_id}/files", json={"file_id": file_id})
    assert again.json()["status"] == "completed"
    assert (await hub.http.get(f"/v1/vector_stores/{store_id}")).json()["file_counts"]["total"] == 1
    assert len(await hub.search(store_id, "nghỉ phép")) == 1


async def test_unknown_fields_of_newer_clients_are_ignored(hub: DocumentHub) -> None:
    store = await hub.created(name="Kho", from_the_future={"a": [1]})
    answer = await hub.http.post(
        f"/v1/vector_stores/{store['id']}/search",
        content=json.dumps({"query": "a", "x": 1}),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 200
