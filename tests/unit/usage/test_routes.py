"""Rows and headers of requests through the whole edge, and the routes of analytics, over a real database."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from aihub.accounts.api_keys import ApiKey
from aihub.accounts.fake import FakeAuthenticator
from aihub.chat.fake import FakeChatEngine
from aihub.core.errors import EngineTimeoutError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from aihub.core.request_record import queueing, waiting
from aihub.http.access import ACCESS
from aihub.usage.analytics import UsageAnalytics
from aihub.usage.recorder import UsageRecorder
from aihub.usage.rows import UsageRow
from aihub.usage.tables.usage_figures import UsageFiguresTable
from aihub.usage.tables.usage_records import UsageTable
from aihub.usage.tasks import task_of
from tests.unit.conftest import LiveServer, assert_refused, chat_body
from tests.unit.http.services import Parts
from tests.unit.usage.usage_parts import row, stored, until

ADMIN_KEY, USER_KEY = ApiKey.generate(), ApiKey.generate()


class SlowEngine(FakeChatEngine):
    """Waits in a queue and for an engine before it answers."""

    queue_s, wait_s = 0.05, 0.1

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        with queueing():
            await asyncio.sleep(self.queue_s)
        with waiting():
            await asyncio.sleep(self.wait_s)
        return await super().chat(body)


@dataclass
class UsageHub:
    """The application with a real recorder and real figures."""

    app: FastAPI
    http: httpx.AsyncClient
    recorder: UsageRecorder
    database: Database
    tenant: str
    parts: Parts

    async def rows(self) -> list[UsageRow]:
        await self.recorder.close()
        return await stored(self.database, self.tenant)


def bearer(key: ApiKey) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.text}"}


@pytest.fixture
async def hub(app: FastAPI, database: Database, tenant: str) -> AsyncIterator[UsageHub]:
    keys = {
        ADMIN_KEY.text: Principal(tenant_id=tenant, role="admin", user_id="usr_quản_trị", key_id=ADMIN_KEY.key_id),
        USER_KEY.text: Principal(tenant_id=tenant, role="user", user_id="usr_2", key_id=USER_KEY.key_id),
    }
    parts = Parts(authenticator=FakeAuthenticator(keys))
    recorder = UsageRecorder(UsageTable(database), days=90)
    analytics = UsageAnalytics(UsageFiguresTable(database))
    app.state.services = replace(parts.services(), usage=recorder, analytics=analytics)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=bearer(USER_KEY)) as http:
        yield UsageHub(app, http, recorder, database, tenant, parts)
    await recorder.close()


async def test_chat_leaves_a_row_with_caller_tokens_and_times(hub: UsageHub) -> None:
    answer = await hub.http.post(
        "/v1/chat/completions", json=chat_body(), headers={"x-request-id": "req_của-tôi".replace("ủ", "u").replace("ô", "o")}
    )
    usage = answer.json()["usage"]
    [found] = await hub.rows()
    assert (found.key_id, found.user_id, found.route, found.task) == (
        USER_KEY.key_id, "usr_2", "POST /v1/chat/completions", "chat",
    )  # fmt: skip
    assert (found.prompt_tokens, found.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (found.status, found.error_code, found.streamed, found.first_token_ms) == (200, "", False, None)
    assert found.request_id == answer.headers["x-request-id"] == "req_cua-toi"
    assert 0 < found.total_ms < 5000


@pytest.mark.parametrize("asks_usage", [True, False])
async def test_stream_leaves_its_tokens_and_first_token_also_where_no_usage_is_asked_for(hub: UsageHub, asks_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asks_usage else {}
    answer = await hub.http.post("/v1/chat/completions", json=chat_body(stream=True) | options)
    assert answer.text.endswith("data: [DONE]\n\n")
    [found] = await hub.rows()
    assert found.streamed
    assert found.first_token_ms is not None
    assert 0 < found.first_token_ms <= found.total_ms
    assert found.completion_tokens > 1
    assert (found.prompt_tokens > 0) == asks_usage


async def test_refusals_leave_rows_with_their_code_and_strangers_none(hub: UsageHub) -> None:
    assert_refused(await hub.http.post("/v1/chat/completions", json={"model": "fake-chat"}), 400)
    assert_refused(await hub.http.post("/v1/chat/completions", json=chat_body(model="không-có")), 404)
    assert_refused(await hub.http.post("/models/cleanup"), 403)
    assert_refused(await hub.http.get("/nowhere"), 404)
    assert_refused(await hub.http.get("/v1/models", headers=bearer(ApiKey.generate())), 401)
    assert (await hub.http.get("/health/live")).status_code == 200
    rows = await hub.rows()
    assert [(found.status, found.error_code, found.route) for found in rows] == [
        (400, "missing_required_parameter", "POST /v1/chat/completions"),
        (404, "model_not_found", "POST /v1/chat/completions"),
        (403, "admin_required", "POST /models/cleanup"),
        (404, "unknown_url", "unmatched"),
    ]


async def test_error_in_the_middle_of_a_stream_is_in_its_row(hub: UsageHub) -> None:
    class BreakingEngine(FakeChatEngine):
        async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
            async for frame in super().stream_chat(body):
                yield frame
                break
            raise EngineTimeoutError("It froze.")

    hub.app.state.services = replace(hub.app.state.services, chat=Parts(engine=BreakingEngine()).services().chat)
    answer = await hub.http.post("/v1/chat/completions", json=chat_body(stream=True))
    assert answer.status_code == 200
    assert "engine_timeout" in answer.text
    [found] = await hub.rows()
    assert (found.status, found.error_code) == (200, "engine_timeout")


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/chat/completions", 200), ("/v1/chat/completions?", 400), ("/nowhere", 404), ("/health/live", 200)]
)
async def test_every_answer_tells_its_time_in_queues_and_the_hubs_own(hub: UsageHub, path: str, status: int) -> None:
    body = chat_body() if status == 200 else {}
    answer = await hub.http.post(path, json=body) if "chat" in path else await hub.http.get(path)
    assert answer.status_code == status
    assert float(answer.headers["x-aihub-queue-ms"]) == 0.0
    assert 0.0 < float(answer.headers["x-aihub-overhead-ms"]) < 1000.0


async def test_headers_and_row_tell_queues_and_waits_apart_from_the_hubs_own_time(hub: UsageHub) -> None:
    hub.app.state.services = replace(hub.app.state.services, chat=Parts(engine=SlowEngine()).services().chat)
    answer = await hub.http.post("/v1/chat/completions", json=chat_body())
    queue_ms, overhead_ms = (float(answer.headers[f"x-aihub-{name}-ms"]) for name in ("queue", "overhead"))
    [found] = await hub.rows()
    assert queue_ms >= 50
    assert found.queued_ms == pytest.approx(queue_ms, abs=0.01)
    assert found.waited_ms >= 100
    assert 0 < overhead_ms <= found.total_ms - found.queued_ms - found.waited_ms + 0.01


async def test_stream_whose_client_leaves_is_a_row_of_status_499_with_the_tokens_so_far(database: Database, tenant: str) -> None:
    class EndlessEngine(FakeChatEngine):
        async def stream_chat(self, body: dict[str, Any]) -> AsyncGenerator[str, None]:
            while True:
                yield 'data: {"choices":[{"index":0,"delta":{"content":"à"},"finish_reason":null}]}\n\n'
                await asyncio.sleep(0.01)

    key = ApiKey.generate()
    parts = Parts(engine=EndlessEngine(), authenticator=FakeAuthenticator({key.text: Principal(tenant_id=tenant, role="user")}))
    server = LiveServer(parts)
    await asyncio.to_thread(server.start)
    try:
        async with (
            httpx.AsyncClient(base_url=server.url, headers=bearer(key)) as http,
            http.stream("POST", "/v1/chat/completions", json=chat_body(stream=True)) as answer,
        ):
            pieces = answer.aiter_text()
            for _ in range(5):
                await anext(pieces)
        await until(lambda: bool(parts.usage.records))
    finally:
        await asyncio.to_thread(server.stop)
    recorder = UsageRecorder(UsageTable(database), days=90)
    recorder.record(parts.usage.records[0])
    await recorder.close()
    [found] = await stored(database, tenant)
    assert (found.status, found.streamed) == (499, True)
    assert found.completion_tokens >= 5
    assert found.first_token_ms is not None


async def test_requests_side_by_side_leave_a_row_each_with_their_own_figures(hub: UsageHub) -> None:
    words = ["một " * (number + 1) for number in range(30)]
    bodies = [
        chat_body(messages=[{"role": "user", "content": text}], stream=number % 2 == 0, **_usage(number))
        for number, text in enumerate(words)
    ]
    answers = await asyncio.gather(*(hub.http.post("/v1/chat/completions", json=body) for body in bodies))
    rows = {found.request_id: found for found in await hub.rows()}
    assert len(rows) == 30
    for answer in answers:
        found = rows[answer.headers["x-request-id"]]
        usage = _usage_of(answer)
        assert (found.prompt_tokens, found.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])


def _usage(number: int) -> dict[str, Any]:
    return {"stream_options": {"include_usage": True}} if number % 2 == 0 else {}


def _usage_of(answer: httpx.Response) -> dict[str, int]:
    if answer.headers["content-type"].startswith("application/json"):
        usage: dict[str, int] = answer.json()["usage"]
        return usage
    chunks = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line.startswith("data: {")]
    return next(chunk["usage"] for chunk in chunks if chunk.get("usage"))


async def test_embeddings_leave_model_and_tokens(hub: UsageHub) -> None:
    await hub.http.post("/v1/embeddings", json={"model": "fake-embedder", "input": ["xin chào", "hub"]})
    [found] = await hub.rows()
    assert (found.task, found.model, found.provider, found.prompt_tokens) == ("embeddings", "fake-embedder", "local", 11)


def test_every_route_that_leaves_rows_has_a_task() -> None:
    assert [route for route, access in ACCESS.items() if access != "open" and not task_of(route)] == []


async def test_analytics_answers_what_the_rows_of_the_hour_say(hub: UsageHub) -> None:
    for _ in range(3):
        await hub.http.post("/v1/chat/completions", json=chat_body())
    await hub.http.post("/v1/embeddings", json={"model": "fake-embedder", "input": "xin chào"})
    await hub.recorder.close()
    answer = await hub.http.get("/api/v1/system/analytics", params={"group_by": "task,model", "status": "2xx"})
    assert answer.status_code == 200
    found = answer.json()
    assert found["object"] == "usage.analytics"
    assert found["group_by"] == ["task", "model"]
    assert [(group["group"], group["requests"]) for group in found["data"]] == [
        ({"task": "chat", "model": ""}, 3),
        ({"task": "embeddings", "model": "fake-embedder"}, 1),
    ]
    assert found["total"]["requests"] == 4
    assert found["total"]["total_ms"]["p50"] > 0
    assert datetime.fromisoformat(found["to"]) - datetime.fromisoformat(found["from"]) == timedelta(days=7)
    repeated = await hub.http.get("/api/v1/system/analytics?group_by=task&group_by=model&status=2xx")
    assert repeated.json()["data"] == found["data"]


async def test_export_is_csv_of_the_own_tenant(hub: UsageHub) -> None:
    await UsageTable(hub.database).insert(
        [row(hub.tenant, datetime.now(UTC), model="mô-hình, tiếng Việt"), row(f"{hub.tenant}-x")]
    )
    answer = await hub.http.get("/api/v1/system/analytics/export")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="usage.csv"'
    lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(line["tenant"], line["model"], line["status"]) for line in lines] == [(hub.tenant, "mô-hình, tiếng Việt", "200")]
    assert list(lines[0])[:5] == ["tenant", "at", "request_id", "key", "user"]
    assert len(lines[0]) == len(UsageRow._fields)
    by_time = {"from": lines[0]["at"]}
    again = await hub.http.get("/api/v1/system/analytics", params=by_time)
    assert again.json()["total"]["requests"] == 1
    assert again.json()["from"] == lines[0]["at"]  # one format of time in the rows, the filters and the figures


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("from=gestern", "from"),
        ("from=2026-13-01", "from"),
        ("from=1999-01-01", "from"),
        ("to=9999-12-31T23:59:59-14:00", "to"),
        ("from=1700000000", "from"),
        ("from=2026-03-02&to=2026-03-01", "from"),
        ("from=2024-01-01&to=2026-01-01", "from"),
        ("group_by=month", "group_by.0"),
        ("group_by=day,day", "group_by"),
        ("group_by=day,model,key,task", "group_by"),
        ("status=ok", "status"),
        ("status=99999", "status"),
        ("cache=full", "cache"),
        ("model=", "model"),
        ("model=" + "a" * 257, "model"),
        ("modell=a", "modell"),
        ("model=%00", "model"),
        ("from=2026-03-01&from=2026-03-02", "from"),
    ],
)
async def test_wrong_parameters_are_refused_by_name(hub: UsageHub, query: str, param: str) -> None:
    assert_refused(await hub.http.get(f"/api/v1/system/analytics?{query}"), 400, param=param)
    if not param.startswith("group_by"):
        assert_refused(await hub.http.get(f"/api/v1/system/analytics/export?{query}"), 400, param=param)


async def test_tenant_of_others_is_an_administrators_to_ask_for(hub: UsageHub) -> None:
    await UsageTable(hub.database).insert([row(f"{hub.tenant}-x", datetime.now(UTC))])
    path = f"/api/v1/system/analytics?tenant={hub.tenant}-x"
    assert_refused(await hub.http.get(path), 403, param="tenant", code="tenant_not_allowed")
    assert (await hub.http.get(path, headers=bearer(ADMIN_KEY))).json()["total"]["requests"] == 1
    export = path.replace("analytics", "analytics/export")
    assert_refused(await hub.http.get(export), 403, param="tenant", code="tenant_not_allowed")
    assert len((await hub.http.get(export, headers=bearer(ADMIN_KEY))).text.splitlines()) == 2
    async with hub.database.connection() as connection:
        await connection.execute("DELETE FROM usage_records WHERE tenant_id = %s", (f"{hub.tenant}-x",))


@pytest.mark.parametrize("path", ["/api/v1/system/analytics", "/api/v1/system/analytics/export"])
async def test_unknown_tenant_or_key_is_not_found_and_one_without_use_is(hub: UsageHub, path: str) -> None:
    other = f"{hub.tenant}-x"
    await UsageTable(hub.database).insert(
        [row(hub.tenant, request_id="1", key_id="key_cũ"), row(other, request_id="2", key_id="key_người_khác")]
    )
    async with hub.database.connection() as connection:
        await connection.execute("INSERT INTO tenants (id, name) VALUES (%s, 'x')", (hub.tenant,))
        await connection.execute("INSERT INTO users (tenant_id, id, name, role) VALUES (%s, 'u', 'u', 'user')", (hub.tenant,))
        await connection.execute(
            "INSERT INTO api_keys (tenant_id, user_id, prefix, sha256, name, role) VALUES (%s, 'u', %s, %s, 'k', 'user')",
            (hub.tenant, USER_KEY.prefix, USER_KEY.digest()),
        )
    admin, future = bearer(ADMIN_KEY), {"from": "2090-01-01", "to": "2090-01-02"}
    try:
        for params, headers in (
            ({"key": "key_cũ"}, bearer(USER_KEY)),
            ({"key": USER_KEY.key_id}, bearer(USER_KEY)),
            ({}, bearer(USER_KEY)),
            ({"tenant": hub.tenant}, bearer(USER_KEY)),
            ({"tenant": other, "key": "key_người_khác"}, admin),
            ({"key": "key_người_khác"}, admin),
        ):
            assert (await hub.http.get(path, params=params | future, headers=headers)).status_code == 200, params
        unknown = await hub.http.get(path, params={"key": "key_nhầm"})
        assert_refused(unknown, 404, param="key", code="key_not_found")
        others = await hub.http.get(path, params={"key": "key_người_khác"})
        assert others.text == unknown.text.replace("key_nhầm", "key_người_khác")
        assert_refused(
            await hub.http.get(path, params={"tenant": "nhầm"}, headers=admin), 404, param="tenant", code="tenant_not_found"
        )
        wrong_pair = {"tenant": other, "key": "key_cũ"}
        assert_refused(await hub.http.get(path, params=wrong_pair, headers=admin), 404, param="key", code="key_not_found")
    finally:
        async with hub.database.connection() as connection:
            await connection.execute("DELETE FROM usage_records WHERE tenant_id = %s", (other,))


async def test_route_without_its_method_is_that_of_all(hub: UsageHub) -> None:
    routes = ["GET /v1/files", "POST /v1/files", "GET /v1/files/{file_id}"]
    now = datetime.now(UTC)
    await UsageTable(hub.database).insert([row(hub.tenant, now, request_id=route, route=route) for route in routes])
    for route, requests in (("/v1/files", 2), ("GET /v1/files", 1), ("/v1/files/{file_id}", 1), ("/v1", 0)):
        answer = await hub.http.get(
            "/api/v1/system/analytics", params={"route": route, "to": (now + timedelta(hours=1)).isoformat()}
        )
        assert answer.json()["total"]["requests"] == requests, route


async def test_figures_without_a_database_are_refused_with_a_time_to_come_back(hub: UsageHub) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/none", timeout_s=0.2)
    opening = asyncio.create_task(gone.open_patiently(0.05))
    await asyncio.sleep(0)
    services = replace(hub.app.state.services, analytics=UsageAnalytics(UsageFiguresTable(gone)))
    hub.app.state.services = services
    for path in ("/api/v1/system/analytics", "/api/v1/system/analytics/export"):
        answer = await hub.http.get(path)
        assert_refused(answer, 503, code="storage_unavailable")
        assert int(answer.headers["retry-after"]) > 0
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
