"""/v1/files over real storage: what clients may upload and what they get back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI

from aihub.core.postgres import Database
from aihub.core.settings import Settings
from aihub.documents.parsing.parser import DocumentParser
from tests.unit.conftest import assert_refused
from tests.unit.documents.ingest_parts import SteeredEmbedder
from tests.unit.documents.media_parts import wav
from tests.unit.documents.routes.document_hub import DocumentHub, document_hub

MAX_BYTES = 300_000
PURPOSE = {"purpose": "assistants"}


@pytest.fixture
async def hub(app: FastAPI, database: Database, tenant: str, parser: DocumentParser) -> AsyncIterator[DocumentHub]:
    async with document_hub(app, database, tenant, parser, SteeredEmbedder(), Settings(max_upload_bytes=MAX_BYTES)) as running:
        yield running


async def upload(hub: DocumentHub, content: bytes = b"Xin ch\xc3\xa0o", filename: str = "a.txt", **fields: str) -> dict[str, Any]:
    answer = await hub.http.post("/v1/files", files={"file": (filename, content)}, data=PURPOSE | fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def assert_good_upload(hub: DocumentHub) -> None:
    await upload(hub)


async def test_uploaded_file_is_described_listed_read_and_deleted(hub: DocumentHub) -> None:
    content = bytes(range(256)) * 1000
    file = await upload(hub, content, "Hợp đồng số 1.pdf")
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": 256_000,
        "created_at": file["created_at"],
        "expires_at": None,
        "filename": "Hợp đồng số 1.pdf",
        "purpose": "assistants",
        "status": "processed",
        "status_details": None,
    }
    assert file["id"].startswith("file-")
    assert (await hub.http.get(f"/v1/files/{file['id']}")).json() == file
    listed = (await hub.http.get("/v1/files")).json()
    assert listed == {"object": "list", "data": [file], "first_id": file["id"], "last_id": file["id"], "has_more": False}
    read = await hub.http.get(f"/v1/files/{file['id']}/content")
    assert read.content == content
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-length"] == "256000"
    assert read.headers["x-content-type-options"] == "nosniff"
    assert (
        read.headers["content-disposition"] == "attachment; filename*=UTF-8''H%E1%BB%A3p%20%C4%91%E1%BB%93ng%20s%E1%BB%91%201.pdf"
    )
    deleted = await hub.http.delete(f"/v1/files/{file['id']}")
    assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
    for path in ("", "/content"):
        assert_refused(await hub.http.get(f"/v1/files/{file['id']}{path}"), 404, code="not_found")
    assert_refused(await hub.http.delete(f"/v1/files/{file['id']}"), 404)


async def test_list_is_paged_filtered_and_ordered(hub: DocumentHub) -> None:
    ids = [(await upload(hub, filename=f"{number}.txt"))["id"] for number in range(3)]
    other = (await upload(hub, purpose="user_data"))["id"]
    first = (await hub.http.get("/v1/files", params={"limit": 2, "order": "asc"})).json()
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (ids[:2], True)
    second = (await hub.http.get("/v1/files", params={"limit": 2, "order": "asc", "after": first["last_id"]})).json()
    assert ([file["id"] for file in second["data"]], second["has_more"]) == ([ids[2], other], False)
    labelled = (await hub.http.get("/v1/files", params={"purpose": "assistants"})).json()
    assert [file["id"] for file in labelled["data"]] == ids[::-1]


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 10_001},
        {"limit": "x"},
        {"order": "up"},
        {"purpose": "x" * 65},
        {"after": "file-none"},
        {"after": "'"},
    ],
)
async def test_bad_list_parameters_are_refused(hub: DocumentHub, params: dict[str, Any]) -> None:
    assert_refused(await hub.http.get("/v1/files", params=params), 400)
    await assert_good_upload(hub)


async def test_expiry_is_kept_in_the_file(hub: DocumentHub) -> None:
    file = await upload(hub, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"})
    assert file["expires_at"] == file["created_at"] + 3600


@pytest.mark.parametrize("name", ["../../etc/passwd", "..\\..\\boot.ini", "a/b/c.txt", "x" * 5000 + ".txt", "\u202etxt.exe", ""])
async def test_filename_is_only_a_label(hub: DocumentHub, name: str) -> None:
    if len(name) > 1000:  # over the limit for one part header
        assert_refused(await hub.http.post("/v1/files", files={"file": (name, b"a")}, data=PURPOSE), 400)
    elif name:
        label = (await upload(hub, filename=name))["filename"]
        assert not set(label) & set("/\\\u202e")
    else:
        assert_refused(await hub.http.post("/v1/files", files={"file": (None, b"a")}, data=PURPOSE), 400, param="file")
    await assert_good_upload(hub)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "secret"}, "purpose"),
        ({"purpose": "assistants", "expires_after": "tomorrow"}, "expires_after"),
        (
            {"purpose": "assistants", "expires_after[anchor]": "created_at", "expires_after[seconds]": "1"},
            "expires_after.seconds",
        ),
    ],
)
async def test_bad_fields_are_refused(hub: DocumentHub, fields: dict[str, str], param: str) -> None:
    assert_refused(await hub.http.post("/v1/files", files={"file": ("a.txt", b"a")}, data=fields), 400, param=param)
    await assert_good_upload(hub)


async def test_empty_file_is_refused(hub: DocumentHub) -> None:
    assert_refused(await hub.http.post("/v1/files", files={"file": ("a.txt", b"")}, data=PURPOSE), 400, code="empty_file")
    await assert_good_upload(hub)


async def test_file_over_the_limit_is_refused_and_nothing_is_kept(hub: DocumentHub) -> None:
    for size in (MAX_BYTES + 1, 500 * MAX_BYTES):
        answer = await hub.http.post("/v1/files", files={"file": ("a.txt", b"x" * size)}, data=PURPOSE)
        assert_refused(answer, 413)
    assert (await hub.http.get("/v1/files")).json()["data"] == []
    await assert_good_upload(hub)


async def test_file_at_the_limit_is_stored(hub: DocumentHub) -> None:
    assert (await upload(hub, b"x" * MAX_BYTES))["bytes"] == MAX_BYTES


async def test_json_instead_of_multipart_is_refused(hub: DocumentHub) -> None:
    assert_refused(await hub.http.post("/v1/files", json={"purpose": "assistants"}), 415)
    await assert_good_upload(hub)


@pytest.mark.parametrize("file_id", ["file-none", "vs_1", "..", "%00", "' OR 1=1 --", "a" * 500])
async def test_unknown_id_is_not_found(hub: DocumentHub, file_id: str) -> None:
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = await hub.http.request(method, f"/v1/files/{quote(file_id, safe='%')}{path}")
        assert answer.status_code in {400, 404, 405}, answer.text
    await assert_good_upload(hub)


async def test_file_of_another_tenant_is_not_found(hub: DocumentHub, tenant: str) -> None:
    file_id = (await upload(hub))["id"]
    hub.act_for(f"{tenant}-other")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert_refused(await hub.http.request(method, f"/v1/files/{file_id}{path}"), 404)
    assert (await hub.http.get("/v1/files")).json()["data"] == []
    assert_refused(await hub.http.get("/v1/files", params={"after": file_id}), 400)
    hub.act_for(tenant)
    assert (await hub.http.get(f"/v1/files/{file_id}")).status_code == 200


async def test_many_uploads_at_once_all_arrive(hub: DocumentHub) -> None:
    files = await asyncio.gather(*(upload(hub, f"Tệp {number}".encode() * 1000) for number in range(20)))
    assert len({file["id"] for file in files}) == 20


async def test_upload_is_documented(hub: DocumentHub) -> None:
    operation = (await hub.http.get("/openapi.json")).json()["paths"]["/v1/files"]["post"]
    schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["file", "purpose"]


@pytest.mark.parametrize("purpose", ["assistants", "user_data", "vision"])
@pytest.mark.parametrize(
    ("filename", "content", "media_type"),
    [
        ("ghi âm.wav", wav(), "audio/wav"),
        ("phim.mp4", b"\0\0\0\x18ftypisom" + bytes(50), "video/mp4"),
        ("ảnh.png", b"\x89PNG\r\n\x1a\n" + bytes(50), "image/png"),
        ("ảnh.jpg", b"\xff\xd8\xff\xe0" + bytes(50), "application/octet-stream"),
    ],
)
async def test_media_are_stored_as_they_are_for_every_purpose(
    hub: DocumentHub, purpose: str, filename: str, content: bytes, media_type: str
) -> None:
    answer = await hub.http.post("/v1/files", files={"file": (filename, content, media_type)}, data={"purpose": purpose})
    assert answer.status_code == 200, answer.text
    file = answer.json()
    assert (file["filename"], file["purpose"], file["bytes"]) == (filename, purpose, len(content))
    assert (await hub.http.get(f"/v1/files/{file['id']}/content")).content == content
