"""Keys on requests: where they count, what a refusal shows, and that no body is read before."""

import asyncio
import json
import socket
import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.authenticator import KeyAuthenticator
from aihub.accounts.tables.tenants import TenantTable
from aihub.core.errors import AuthenticationError
from aihub.core.principal import Principal
from aihub.http.app import create_app
from tests.unit.accounts.account_parts import CountedDatabase, make_key
from tests.unit.conftest import LiveServer, assert_refused, chat_body
from tests.unit.http.keys import ADMIN_KEY, USER_KEY, bearer, known_keys
from tests.unit.http.services import Parts
from tests.unit.http.test_websockets import connect

LARGE_BYTES = 64 * 2**20


@pytest.fixture
def parts() -> Parts:
    return Parts(authenticator=known_keys())


SLEEP = "'; SELECT pg_sleep(10); --"
WRONG_PLACES: list[dict[str, Any]] = [
    {},
    {"params": {"api_key": USER_KEY, "key": USER_KEY, "access_token": USER_KEY}},
    {"cookies": {"Authorization": f"Bearer {USER_KEY}", "api_key": USER_KEY}},
    {"headers": {"X-API-Key": USER_KEY}},
    {"headers": {"api-key": USER_KEY, "Proxy-Authorization": f"Bearer {USER_KEY}"}},
    {"auth": ("key", USER_KEY)},
    {"headers": {"Authorization": USER_KEY}},
    {"headers": {"Authorization": f"Basic {USER_KEY}"}},
    {"headers": {"Authorization": f"Token {USER_KEY}"}},
    {"headers": {"Authorization": f"Bearer{USER_KEY}"}},
    {"headers": {"Authorization": f"Bearer: {USER_KEY}"}},
    {"headers": {"Authorization": f'Bearer "{USER_KEY}"'}},
    {"headers": {"Authorization": f"Bearer {USER_KEY}, Bearer {USER_KEY}"}},
    {"headers": {"Authorization": f"Bearer {USER_KEY} {USER_KEY}"}},
    {"headers": {"Authorization": f"Bearer {USER_KEY}x"}},
    {"headers": {"Authorization": f"Bearer {USER_KEY[:-1]}"}},
    {"headers": {"Authorization": f"Bearer {USER_KEY.upper()}"}},
    {"headers": {"Authorization": f"Bearer {ADMIN_KEY[:15]}{USER_KEY[15:]}"}},
    {"headers": {"Authorization": "Bearer "}},
    {"headers": {"Authorization": "Bearer"}},
    {"headers": {"Authorization": ""}},
    {"headers": {"Authorization": f"Bearer {SLEEP}"}},
    {"headers": {"Authorization": f"Bearer aihub_user0000_{SLEEP}"}},
    {"headers": {"Authorization": "Bearer ' OR '1'='1"}},
    {"headers": {"Authorization": "Bearer aihub_%_%"}},
    {"headers": {"Authorization": b"Bearer " + "aihub_khoá_bí_mật".encode()}},
    {"headers": {"Authorization": b"Bearer \xff\xfe\x80"}},
    {"headers": {"Authorization": "Bearer " + "a" * 50_000}},
    {"headers": [("Authorization", f"Bearer {USER_KEY}"), ("Authorization", f"Bearer {USER_KEY}")]},
    {"headers": [("Authorization", f"Bearer {USER_KEY}"), ("Authorization", "Bearer other")]},
]


@pytest.mark.parametrize("place", WRONG_PLACES)
async def test_key_in_a_wrong_place_or_shape_is_401(client: httpx.AsyncClient, place: dict[str, Any]) -> None:
    for cookie in place.get("cookies", {}).items():
        client.cookies.set(*cookie)
    sent = {name: value for name, value in place.items() if name != "cookies"}
    began_s = time.perf_counter()
    answer = await client.post("/v1/chat/completions", json=chat_body(), **sent)
    error = assert_refused(answer, 401)
    assert time.perf_counter() - began_s < 2
    assert error["type"] == "authentication_error"
    assert any(advice in error["message"] for advice in ("Authorization: Bearer", "aihub keys", "administrator", "exactly one"))
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "value", [f"Bearer {USER_KEY}", f"bearer {USER_KEY}", f"BEARER {USER_KEY}", f"bEaReR   {USER_KEY}", f" Bearer {USER_KEY} "]
)
async def test_scheme_may_have_any_case(client: httpx.AsyncClient, value: str) -> None:
    answer = await client.post("/v1/chat/completions", json=chat_body(), headers={"Authorization": value})
    assert answer.status_code == 200, answer.text


async def test_100_kb_of_key_are_refused_by_their_size(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models", headers={"Authorization": "Bearer " + "a" * 100_000})
    assert_refused(answer, 431, code="headers_too_large")


@pytest.mark.parametrize(
    "key",
    [
        "aihub_stranger_" + "x" * 43,
        USER_KEY[:-1] + "w",
        ADMIN_KEY[:-1],
        f"aihub_user0000_{SLEEP}",
        "sk-proj-someone-elses-secret",
    ],
)
async def test_secrets_are_in_no_log_and_no_answer(
    client: httpx.AsyncClient, app: FastAPI, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    secrets = {key, key[15:]} - {""}
    answers = []
    with caplog.at_level(1):
        for headers in (bearer(key), {"Authorization": f"Basic {key}"}, {"X-API-Key": key}, {"Cookie": f"key={key}"}):
            answers.append(await client.get("/v1/models", headers=headers))
        answers.append(await client.get("/v1/models", params={"key": key}))
        refused = await connect(app, "/v1/audio/stream", (b"authorization", f"Bearer {key}".encode()))
    own = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    shown = [json.dumps([record.getMessage(), record.args, record.__dict__.get("fields")], default=str) for record in own]
    shown += [f"{answer.text}{answer.headers}" for answer in answers] + [str(refused)]
    assert len(shown) >= 12
    assert [text for text in shown if any(secret in text for secret in secrets)] == []


async def test_known_key_is_in_no_log_and_no_answer(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(1):
        paths = ("/v1/models", "/metrics", "/nothing", "/docs", "/health")
        answers = [await client.get(path, headers=bearer(USER_KEY)) for path in paths]
    own = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    shown = [f"{record.getMessage()} {record.args} {record.__dict__}" for record in own]
    shown += [f"{answer.text}{answer.headers}" for answer in answers]
    assert len(own) >= 5
    assert [text for text in shown if USER_KEY[15:] in text] == []


async def test_storage_that_is_away_is_503_and_a_bug_in_the_check_lets_nobody_in(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.authenticator.is_away = True
    answer = await client.get("/v1/models", headers=bearer(USER_KEY))
    assert_refused(answer, 503, code="storage_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (await client.get("/health")).status_code == 200

    async def broken(_: object) -> Principal:
        raise KeyError(USER_KEY)

    parts.authenticator.authenticate = broken  # type: ignore[method-assign]  # a bug
    error = assert_refused(await client.get("/v1/models", headers=bearer(USER_KEY)), 500, code="internal_error")
    assert USER_KEY not in error["message"]


class TestRecords:
    async def test_request_leaves_its_principal_route_and_status(self, client: httpx.AsyncClient, parts: Parts) -> None:
        answer = await client.post("/v1/chat/completions", json=chat_body(), headers=bearer(USER_KEY))
        await client.get("/v1/models/no-such-model", headers=bearer(USER_KEY))
        await client.get("/metrics", headers=bearer(USER_KEY))
        await client.get("/nothing", headers=bearer(USER_KEY))
        chat, model, metrics, nothing = parts.usage.records
        assert (chat.route, chat.status, chat.error_code) == ("POST /v1/chat/completions", 200, "")
        assert chat.request_id == answer.headers["x-request-id"]
        assert chat.principal == parts.authenticator.keys[USER_KEY]
        assert chat.total_s > 0
        assert (model.route, model.status, model.error_code) == ("GET /v1/models/{model_id:path}", 404, "model_not_found")
        assert (metrics.route, metrics.status, metrics.error_code) == ("GET /metrics", 403, "admin_required")
        assert (nothing.route, nothing.status, nothing.error_code) == ("unmatched", 404, "unknown_url")

    async def test_nobodys_requests_leave_none(self, client: httpx.AsyncClient, parts: Parts) -> None:
        await client.get("/v1/models")
        await client.get("/health")
        await client.get("/v1/models", headers=bearer(USER_KEY) | {"Host": "evil.example"})
        assert parts.usage.records == []

    async def test_websocket_leaves_one(self, app: FastAPI, client: httpx.AsyncClient, parts: Parts) -> None:
        await connect(app, "/v1/audio/streams", (b"authorization", f"Bearer {USER_KEY}".encode()))
        (record,) = parts.usage.records
        assert (record.status, record.error_code) == (404, "unknown_url")
        assert record.principal.key_id == "key_user0000"

    async def test_concurrent_requests_keep_their_own(self, client: httpx.AsyncClient, parts: Parts) -> None:
        keys = [USER_KEY, ADMIN_KEY] * 10
        await asyncio.gather(*(client.post("/v1/chat/completions", json=chat_body(), headers=bearer(key)) for key in keys))
        seen = sorted(record.principal.key_id or "" for record in parts.usage.records)
        assert seen == ["key_admin000"] * 10 + ["key_user0000"] * 10


@pytest.fixture(scope="module")
def closed_server() -> Iterator[LiveServer]:
    live = LiveServer(Parts(authenticator=known_keys()))
    live.start()
    yield live
    live.stop()


class TestOnASocket:
    def test_upload_without_a_key_is_refused_before_its_body_is_sent(self, closed_server: LiveServer) -> None:
        head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        began_s = time.perf_counter()
        answer = closed_server.send_raw(head + f"Content-Length: {LARGE_BYTES}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in answer.lower()
        assert b"www-authenticate: bearer" in answer.lower()
        assert time.perf_counter() - began_s < 4

    def test_client_that_waits_for_100_is_told_401(self, closed_server: LiveServer) -> None:
        head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        answer = closed_server.send_raw(head + f"Content-Length: {LARGE_BYTES}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 401 ")

    def test_connection_of_a_refused_request_without_a_body_goes_on(self, closed_server: LiveServer) -> None:
        request = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n"
        keyed = request + f"Authorization: Bearer {USER_KEY}\r\nConnection: close\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", closed_server.port), timeout=5) as raw:
            raw.sendall(request + b"\r\n")
            first = raw.recv(65536)
            raw.sendall(keyed)
            second = raw.recv(65536)
        assert first.startswith(b"HTTP/1.1 401 ")
        assert second.startswith(b"HTTP/1.1 200 ")

    def test_body_of_a_refused_request_is_not_taken_for_the_next_one(self, closed_server: LiveServer) -> None:
        inner = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\r\n".encode()
        head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(inner)}\r\n\r\n".encode()
        answer = closed_server.send_raw(head + inner, wait_s=3)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 401 ")

    def test_client_that_sends_64_mb_all_the_same_gets_the_401(self, closed_server: LiveServer) -> None:
        began_s = time.perf_counter()
        files = {"file": ("a.txt", b"x" * LARGE_BYTES)}
        for _ in range(3):
            answer = httpx.post(f"{closed_server.url}/v1/files", files=files, data={"purpose": "assistants"}, timeout=10)
            assert answer.status_code == 401
        assert time.perf_counter() - began_s < 10

    def test_openai_client_raises_its_own_errors(self, closed_server: LiveServer) -> None:
        url = f"{closed_server.url}/v1"
        with openai.OpenAI(base_url=url, api_key="sk-wrong", max_retries=0) as wrong, pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        with openai.OpenAI(base_url=url, api_key=USER_KEY, max_retries=0) as user:
            assert [model.id for model in user.models.list()] != []
            with pytest.raises(openai.PermissionDeniedError):
                user.models.delete("ft:x")


class TestTime:
    """That time tells nothing of a key, on the real tables."""

    async def test_unknown_prefix_takes_as_long_as_a_wrong_secret(self, accounts_database: CountedDatabase) -> None:
        authenticator = KeyAuthenticator(accounts_database, is_local=False)
        known, stranger = await make_key(accounts_database), ApiKey.generate()
        wrong_secret = known.text[:15] + stranger.text[15:]
        almost = known.text[:-1] + ("a" if known.text[-1] != "a" else "b")
        durations_s: dict[str, list[float]] = {wrong_secret: [], stranger.text: [], almost: []}
        for key in durations_s:
            await self.refused_s(authenticator, key)  # both prefixes are remembered from now on
        for _ in range(400):
            for key, found_s in durations_s.items():
                found_s.append(await self.refused_s(authenticator, key))
        await authenticator.close()
        medians_s = [statistics.median(found_s) for found_s in durations_s.values()]
        assert max(medians_s) < 2 * min(medians_s), medians_s

    async def refused_s(self, authenticator: KeyAuthenticator, key: str) -> float:
        began_s = time.perf_counter()
        with pytest.raises(AuthenticationError):
            await authenticator.authenticate([f"Bearer {key}"])
        return time.perf_counter() - began_s


async def test_expired_and_revoked_keys_are_401_and_anothers_secret_opens_nothing(accounts_database: CountedDatabase) -> None:
    good, expired, revoked = [await make_key(accounts_database) for _ in range(3)]
    await TenantTable(accounts_database).create("other", "other")
    other = await make_key(accounts_database, tenant="other", user="an", role="user")
    async with accounts_database.transaction() as connection:
        await connection.execute("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE prefix = %s", (expired.prefix,))
        await connection.execute("UPDATE api_keys SET revoked_at = now() WHERE prefix = %s", (revoked.prefix,))
    authenticator = KeyAuthenticator(accounts_database, is_local=True)
    parts = Parts()
    parts.authenticator = authenticator  # type: ignore[assignment]  # the real one
    transport = httpx.ASGITransport(create_app(parts.services()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert_refused(await http.get("/v1/models", headers=bearer(expired.text)), 401, code="expired_api_key")
        assert_refused(await http.get("/v1/models", headers=bearer(revoked.text)), 401, code="revoked_api_key")
        assert_refused(await http.get("/v1/models"), 401, code="missing_api_key")
        swapped = good.text[:15] + other.text[15:]
        assert_refused(await http.get("/v1/models", headers=bearer(swapped)), 401, code="invalid_api_key")
        for key in (good, other):
            assert (await http.get("/v1/models", headers=bearer(key.text))).status_code == 200
        assert_refused(await http.get("/metrics", headers=bearer(other.text)), 403, code="admin_required")
    await authenticator.close()
    assert [record.principal.tenant_id for record in parts.usage.records] == ["default", "other", "other"]
