"""How multipart uploads are read: labels, limits and broken bodies."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI, Request

from aihub.http import uploads
from aihub.http.errors import install_error_handlers
from aihub.http.services import Services
from aihub.http.uploads import FieldLimits, read_upload, safe_filename
from tests.unit.http.services import Parts

MAX_BYTES = 200_000
BOUNDARY = "grenze"


def upload_app(services: Services) -> FastAPI:
    app = FastAPI()
    app.state.services = services
    install_error_handlers(app)

    @app.post("/upload")
    async def upload(request: Request) -> dict[str, object]:
        async with read_upload(request, max_bytes=MAX_BYTES, stall_s=0.3) as received:
            content = b"".join([piece async for piece in received.chunks()])
            return {"filename": received.filename, "size": received.size_bytes, "read": len(content), "fields": received.fields}

    @app.post("/many")
    async def many(request: Request) -> dict[str, object]:
        limits = FieldLimits(fields=20, field_bytes=8, lists=frozenset({"phrases"}))
        async with read_upload(request, max_bytes=MAX_BYTES, stall_s=0.3, limits=limits) as received:
            return received.fields

    return app


def calling(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with calling(upload_app(Parts().services())) as http:
        yield http


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    label = "" if filename is None else f'; filename="{filename}"'
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{label}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
HEADERS = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
GOOD = part("file", "Xin chào".encode(), "chào.txt") + part("purpose", b"assistants") + END


async def assert_refused_then_good(client: httpx.AsyncClient, status: int, body: object, **headers: str) -> dict[str, str]:
    refused = await client.post("/upload", content=body, headers=HEADERS | headers)
    assert refused.status_code == status, refused.text
    good = await client.post("/upload", content=GOOD, headers=HEADERS)
    assert good.status_code == 200
    error: dict[str, str] = refused.json()["error"]
    return error


async def test_file_and_fields_are_read_in_any_order(client: httpx.AsyncClient) -> None:
    body = part("file", b"abc", "a.txt") + part("purpose", b"assistants") + part("expires_after[seconds]", b"3600") + END
    answer = await client.post("/upload", content=body, headers=HEADERS)
    assert answer.json() == {
        "filename": "a.txt",
        "size": 3,
        "read": 3,
        "fields": {"purpose": "assistants", "expires_after": {"seconds": "3600"}},
    }


async def test_large_file_is_spooled_and_read_back_whole(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads.MultiPartParser, "spool_max_size", 1000)
    answer = await client.post("/upload", content=part("file", b"x" * MAX_BYTES, "a") + END, headers=HEADERS)
    assert answer.json()["read"] == MAX_BYTES


async def test_file_over_the_limit_is_refused_before_it_is_read(client: httpx.AsyncClient) -> None:
    error = await assert_refused_then_good(client, 413, b"", **{"content-length": str(500 * 2**20)})
    assert str(MAX_BYTES + uploads.ENVELOPE_BYTES) in error["message"]


async def test_chunked_file_over_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield part("file", b"", "a.txt")[:-2]
        while sent < 100 * MAX_BYTES:
            sent += 65536
            yield b"x" * 65536

    error = await assert_refused_then_good(client, 413, endless())
    assert error["code"] == "payload_too_large"


async def test_many_parts_are_refused(client: httpx.AsyncClient) -> None:
    await assert_refused_then_good(client, 413, b"".join(part(f"f{i}", b"1") for i in range(5000)) + END)


async def test_long_text_field_is_refused(client: httpx.AsyncClient) -> None:
    await assert_refused_then_good(client, 413, part("purpose", b"x" * 10_000) + END)


async def test_two_files_are_refused(client: httpx.AsyncClient) -> None:
    await assert_refused_then_good(client, 400, part("file", b"a", "a") + part("file", b"b", "b") + END)


async def test_field_given_twice_is_refused(client: httpx.AsyncClient) -> None:
    body = part("file", b"a", "a") + part("purpose", b"assistants") + part("purpose", b"vision") + END
    assert (await assert_refused_then_good(client, 400, body))["param"] == "purpose"


async def test_list_fields_come_again_with_and_without_brackets(client: httpx.AsyncClient) -> None:
    fields = (
        part("phrases", b"a"),
        part("phrases[]", b"b"),
        part("phrases", b"phrases"),
        part("x[y]", b"1"),
        part("N-1", b"2"),
        part("other[]", b"3"),
    )
    body = part("file", b"a", "a.txt") + b"".join(fields) + END
    answer = await client.post("/many", content=body, headers=HEADERS)
    assert answer.json() == {"phrases": ["a", "b", "phrases"], "x": {"y": "1"}, "N-1": "2", "other[]": "3"}


@pytest.mark.parametrize(
    "fields", [("phrases[a]", "phrases"), ("phrases", "phrases[a]"), ("phrases[a]", "phrases[]"), ("x", "x"), ("x[y]", "x")]
)
async def test_fields_that_contradict_each_other_are_refused(client: httpx.AsyncClient, fields: tuple[str, str]) -> None:
    body = part("file", b"a", "a.txt") + b"".join(part(name, b"a") for name in fields) + END
    answer = await client.post("/many", content=body, headers=HEADERS)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == fields[0].partition("[")[0]


async def test_limits_of_fields_are_those_of_the_route(client: httpx.AsyncClient) -> None:
    body = part("file", b"a", "a.txt") + b"".join(part(f"f{letter}", b"1") for letter in "abcdefghijkl") + END
    assert (await client.post("/many", content=body, headers=HEADERS)).status_code == 200
    assert (await client.post("/upload", content=body, headers=HEADERS)).status_code == 413
    long = part("file", b"a", "a.txt") + part("x", b"123456789") + END
    assert (await client.post("/many", content=long, headers=HEADERS)).status_code == 413


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (part("purpose", b"assistants") + END, "invalid_request"),
        (part("file", b"no filename, so a text field") + END, "invalid_request"),
        (part("other", b"a", "a.txt") + END, "invalid_request"),
        (part("file", b"", "leer.txt") + END, "empty_file"),
    ],
)
async def test_missing_or_empty_file_is_refused(client: httpx.AsyncClient, body: bytes, code: str) -> None:
    error = await assert_refused_then_good(client, 400, body)
    assert (error["param"], error["code"]) == ("file", code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00" * 100,
        b"no boundary at all",
        part("file", b"a", "a.txt"),
        b"--" + BOUNDARY.encode() + b"\r\nbroken\r\n\r\n",
        END,
    ],
)
async def test_broken_body_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    await assert_refused_then_good(client, 400, body)


async def test_missing_boundary_is_refused(client: httpx.AsyncClient) -> None:
    await assert_refused_then_good(client, 400, GOOD, **{"content-type": "multipart/form-data"})


async def test_long_part_headers_are_refused(client: httpx.AsyncClient) -> None:
    await assert_refused_then_good(client, 400, part("file", b"a", "a" * 100_000) + END)


async def test_body_of_another_type_is_refused(client: httpx.AsyncClient) -> None:
    await assert_refused_then_good(client, 415, b"{}", **{"content-type": "application/json"})


async def test_stalled_body_is_given_up(client: httpx.AsyncClient) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield part("file", b"abc", "a.txt")
        await asyncio.sleep(30)

    await asyncio.wait_for(assert_refused_then_good(client, 408, stalled()), timeout=5)


async def test_full_disk_answers_503(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # /dev/full fails every write with ENOSPC, as a full disk does.
    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", lambda max_size: open("/dev/full", "r+b", buffering=0))
    refused = await client.post("/upload", content=part("file", b"x" * 5000, "a") + END, headers=HEADERS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_disk_space")
    monkeypatch.undo()
    assert (await client.post("/upload", content=GOOD, headers=HEADERS)).status_code == 200


async def test_uploads_beyond_the_slots_are_refused_in_every_application_of_the_process_and_slots_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "SLOT_WAIT_S", 0.05)
    services = replace(Parts().services(), upload_slots=asyncio.Semaphore(1))
    hold = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield GOOD[:10]
        hold.set()
        await asyncio.sleep(0.2)
        yield GOOD[10:]

    # The ingress serves two: one behind Serve's proxy, one on its socket.
    async with calling(upload_app(services)) as client, calling(upload_app(services)) as other:
        first = asyncio.create_task(client.post("/upload", content=slow(), headers=HEADERS))
        await hold.wait()
        for http in (client, other):
            second = await http.post("/upload", content=GOOD, headers=HEADERS)
            assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        assert (await first).status_code == 200
        assert (await other.post("/upload", content=GOOD, headers=HEADERS)).status_code == 200


async def test_no_temporary_file_is_left(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tempfile.SpooledTemporaryFile[bytes]] = []

    def spool(max_size: int) -> "tempfile.SpooledTemporaryFile[bytes]":
        opened.append(tempfile.SpooledTemporaryFile(max_size=max_size))
        return opened[-1]

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", spool)
    await client.post("/upload", content=GOOD, headers=HEADERS)
    await client.post("/upload", content=part("file", b"x" * (MAX_BYTES + 1), "a") + END, headers=HEADERS)
    assert [file.closed for file in opened] == [True, True]


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ("Hợp đồng.pdf", "Hợp đồng.pdf"),
        ("Ho\u031b\u0323p.pdf", "Hợp.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\a\\b.docx", "b.docx"),
        ("a\x00b\nc\u202egnp.txt", "abcgnp.txt"),
        ("", "file"),
        ("...", "file"),
        ("/", "file"),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("\ud800.txt", ".txt"),
    ],
)
def test_filename_becomes_a_harmless_label(given: str, label: str) -> None:
    assert safe_filename(given) == label


@pytest.mark.parametrize(
    ("parameters", "filename"),
    [
        ('filename="a%22b.txt"', 'a"b.txt'),
        ('filename="a\\"b.txt"', 'a"b.txt'),
        ('filename="a%0D%0Ab.txt"', "ab.txt"),
        ('filename="100%25 %2F.txt"', "100%25 %2F.txt"),
        ('filename="chào bạn.txt"', "chào bạn.txt"),
        ("filename=plain.txt", "plain.txt"),
        ("filename=\"a.txt\"; filename*=utf-8''ch%C3%A0o%20b.txt", "chào b.txt"),
        ("filename*=UTF-8'vi'ch%C3%A0o.txt", "chào.txt"),
        ("filename*=iso-8859-1''caf%E9.txt", "café.txt"),
        ("filename=\"ok.txt\"; filename*=utf-8''%FF.txt", "ok.txt"),
        ("filename=\"x; filename*=utf-8''y.txt\"", "x; filename*=utf-8''y.txt"),
        ("filename*=utf-8''..%2F..%2Fetc%2Fpasswd", "passwd"),
        ('filename="=?utf-8?B?Y2jDoG8udHh0?="', "chào.txt"),
        ('filename="C:\\\\dir\\\\x.txt"', "x.txt"),
    ],
)
async def test_the_name_is_read_in_the_ways_that_clients_write_it(
    client: httpx.AsyncClient, parameters: str, filename: str
) -> None:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; {parameters}\r\n\r\n'
    answer = await client.post("/upload", content=head.encode() + b"abc\r\n" + END, headers=HEADERS)
    assert answer.json()["filename"] == filename


@pytest.mark.parametrize("filename", ['a"b.txt', '""', "tệp số 1.txt", "it's; a=b.txt", "50% off.txt"])
async def test_names_come_back_as_httpx_sent_them(client: httpx.AsyncClient, filename: str) -> None:
    answer = await client.post("/upload", files={"file": (filename, b"abc")})
    assert answer.json()["filename"] == filename
