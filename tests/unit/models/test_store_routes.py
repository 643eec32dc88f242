import asyncio
import gc
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from aihub.core.errors import HubError, OverloadedError
from aihub.http.errors import install_error_handlers
from aihub.http.middleware import RequestContext
from aihub.models.keys import parse_key
from aihub.models.service import RegistryService
from aihub.models.store import routes
from aihub.models.store.downloads.orders import JobEvent
from aihub.models.store.routes import job_frames
from tests.unit.conftest import assert_refused
from tests.unit.http.services import Parts
from tests.unit.models.registry_parts import JOB_ID, FakeRegistry, job

# Each must be refused as a key before anything is asked of the registry.
BAD_KEYS = [
    ".", "..", "a/../b", "hf:a/../b", "%2e%2e%2f", "hf:..%2f..", "vosk:..\\vi", "/etc/passwd", "vosk:vi.", "vosk:vi ",
    "v" * 300, "vosk:" + "v" * 300, "vosk:vі", "vosk:CON", "vosk:nul", "-rf", "vosk:-rf", "vosk:vi\n", "vosk:", ":vi",
    "vosk::vi", "vosk:vi:vi", "http://evil.example/x", "file:///etc/passwd", "vosk", "VOSK:vi", "hf:org/model/more", "hf:model",
    "vosk:vi\x00", "ollama:a:b:c", "vosk:{{7*7}}", "vosk:$(id)", "vosk:vi?x=1", "vosk:ví",
]  # fmt: skip


def make_app(registry: RegistryService) -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    app.state.services = replace(Parts().services(), registry=registry)
    install_error_handlers(app)
    app.add_middleware(RequestContext, sends_id=True)
    app.include_router(routes.router)
    return app


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
async def client(registry: FakeRegistry) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(registry), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        yield http


def data_of(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert list(document) == ["success", "data"]
    assert document["success"] is True
    return document["data"]


async def test_status_has_the_promised_shape(client: httpx.AsyncClient) -> None:
    status = data_of(await client.get("/models/status"))
    assert list(status) == [
        "total_models",
        "available_models",
        "required_models",
        "missing_required",
        "missing_required_keys",
        "models_by_type",
        "models_by_use",
        "model_details",
    ]
    assert status["missing_required"] == 1
    assert status["models_by_type"] == {"vosk": ["vosk:en", "vosk:vi"]}
    assert status["models_by_use"] == {"speech": {"total": 2, "available": 1}}


@pytest.mark.parametrize(
    "path", ["detect", "recommended", "health", "jobs", "configuration", "versions/vosk:vi", "update/vosk:vi"]
)
async def test_reports_come_in_the_same_envelope(client: httpx.AsyncClient, registry: FakeRegistry, path: str) -> None:
    data_of(await client.get(f"/models/{path}"))
    assert registry.asked[0][0] == path.partition("/")[0]


@pytest.mark.parametrize(
    "key",
    [
        "ollama:gemma2:9b",
        "vosk:vi",
        "hf:Qwen/Qwen2.5-0.5B-Instruct",
        "package:smollm2",
        "local:cua-hang",
    ],
)
async def test_a_download_is_accepted_with_its_job(client: httpx.AsyncClient, registry: FakeRegistry, key: str) -> None:
    answer = await client.post(f"/models/download/{key}")
    assert data_of(answer, 202)["key"] == key
    assert answer.headers["location"] == f"/models/jobs/{JOB_ID}"
    assert registry.asked == [("download", parse_key(key))]


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_a_bad_key_is_refused_everywhere(client: httpx.AsyncClient, registry: FakeRegistry, key: str) -> None:
    started_s = time.perf_counter()
    for encoded in (quote(key, safe=""), quote(quote(key, safe=""), safe="")):
        for method, path in (("POST", "download"), ("GET", "update")):
            answer = await client.request(method, f"/models/{path}/{encoded}")
            # Dots are resolved by the client and control characters refused for any path; the rest reaches the route.
            is_path = "invalid_model_key" not in answer.text
            assert_refused(answer, 404 if is_path else 400, code="unknown_url" if is_path else "invalid_model_key")
            assert not is_path or key in {".", ".."} or not key.isprintable()
    for path, body in {
        "ensure": {"models": [key]},
        "validate": {"models": ["vosk:vi", key]},
        "pin": {"key": key},
        "unpin": {"key": key},
        "rollback": {"key": key},
    }.items():
        assert_refused(await client.post(f"/models/{path}", json=body))
    assert time.perf_counter() - started_s < 9 * 0.1
    assert registry.asked == []


@given(st.text(max_size=40))
def test_any_text_as_a_key_is_a_key_or_a_typed_refusal(text: str) -> None:
    import asyncio

    async def ask() -> None:
        registry = FakeRegistry()
        transport = httpx.ASGITransport(make_app(registry), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post("/models/ensure", json={"models": [text]})
        assert answer.status_code in {202, 400}, answer.text
        assert bool(registry.asked) == (answer.status_code == 202)

    asyncio.run(ask())


async def test_no_key_at_all_is_no_path(client: httpx.AsyncClient) -> None:
    assert (await client.post("/models/download")).status_code in {404, 405}
    assert_refused(await client.post("/models/download/"), code="invalid_model_key")


async def test_what_the_registry_refuses_keeps_its_status(client: httpx.AsyncClient, registry: FakeRegistry) -> None:
    assert_refused(await client.post("/models/download/openai:gpt-4o-mini"), 409, code="conflict")
    registry.error = OverloadedError("Too many downloads wait already.", retry_after_s=30)
    answer = await client.post("/models/download/vosk:vi")
    assert_refused(answer, 503, code="overloaded")
    assert answer.headers["retry-after"] == "30"


@pytest.mark.parametrize(
    ("body", "expected"),
    [(None, None), ({}, None), ({"models": None}, None), ({"models": ["vosk:vi", "vosk:vi"]}, [parse_key("vosk:vi")])],
)
async def test_ensure_takes_keys_or_nothing(client: httpx.AsyncClient, registry: FakeRegistry, body: Any, expected: Any) -> None:
    answer = await (client.post("/models/ensure") if body is None else client.post("/models/ensure", json=body))
    assert [one["id"] for one in data_of(answer, 202)["jobs"]] == [JOB_ID]
    assert registry.asked == [("ensure", expected)]


@pytest.mark.parametrize("path", ["ensure", "validate"])
@pytest.mark.parametrize(
    "body", [{"models": []}, {"models": "vosk:vi"}, {"models": [1]}, {"model": ["vosk:vi"]}, {"models": ["vosk:vi"] * 101}, []]
)
async def test_a_wrong_body_is_refused(client: httpx.AsyncClient, registry: FakeRegistry, path: str, body: Any) -> None:
    assert_refused(await client.post(f"/models/{path}", json=body))
    assert registry.asked == []


async def test_validate_passes_what_to_check(client: httpx.AsyncClient, registry: FakeRegistry) -> None:
    assert data_of(await client.post("/models/validate", json={"models": ["vosk:vi"], "with_load": False}))["is_good"] is True
    data_of(await client.post("/models/validate"))
    assert registry.asked == [("validate", [parse_key("vosk:vi")], False), ("validate", None, True)]


async def test_cleanup_keeps_three_versions_unless_told_otherwise(client: httpx.AsyncClient, registry: FakeRegistry) -> None:
    assert data_of(await client.post("/models/cleanup"))["freed_bytes"] == 5
    data_of(await client.post("/models/cleanup?keep_recent=0"))
    assert registry.asked == [("cleanup", 3), ("cleanup", 0)]


@pytest.mark.parametrize("keep", ["-1", "1001", "x", "1.5", ""])
async def test_cleanup_refuses_a_wrong_number(client: httpx.AsyncClient, registry: FakeRegistry, keep: str) -> None:
    assert_refused(await client.post(f"/models/cleanup?keep_recent={keep}"), param="keep_recent")
    assert registry.asked == []


async def test_configure_passes_settings_and_refusals(client: httpx.AsyncClient, registry: FakeRegistry) -> None:
    changes = {"max_concurrent_downloads": 4, "preferred_model": None, "fallback_order": ["local", "openai"]}
    assert data_of(await client.post("/models/configure", json=changes)) == {"max_concurrent_downloads": 4}
    assert registry.asked == [("configure", changes)]
    assert_refused(await client.post("/models/configure", json={"unknown": 1}), param="unknown", code="unknown_setting")
    assert_refused(await client.post("/models/configure"), 415)


async def test_versions_are_pinned_released_and_rolled_back(client: httpx.AsyncClient, registry: FakeRegistry) -> None:
    key = parse_key("vosk:vi")
    data_of(await client.post("/models/pin", json={"key": "vosk:vi", "digest": "a" * 12}))
    data_of(await client.post("/models/pin", json={"key": "vosk:vi"}))
    data_of(await client.post("/models/unpin", json={"key": "vosk:vi"}))
    data_of(await client.post("/models/rollback", json={"key": "vosk:vi"}))
    assert registry.asked == [("pin", key, "a" * 12), ("pin", key, None), ("unpin", key), ("rollback", key)]


@pytest.mark.parametrize("digest", ["", "../" * 4, "A" * 12, "a" * 129, 5])
async def test_a_wrong_digest_is_refused(client: httpx.AsyncClient, registry: FakeRegistry, digest: Any) -> None:
    assert_refused(await client.post("/models/pin", json={"key": "vosk:vi", "digest": digest}), param="digest")
    assert registry.asked == []


async def test_a_job_is_shown_and_cancelled(client: httpx.AsyncClient, registry: FakeRegistry) -> None:
    assert data_of(await client.get(f"/models/jobs/{JOB_ID}"))["status"] == "running"
    assert data_of(await client.delete(f"/models/jobs/{JOB_ID}"))["status"] == "cancelled"
    assert registry.asked == [("job", JOB_ID), ("cancel", JOB_ID)]


@pytest.mark.parametrize("path", ["/models/jobs/dl-unknown", "/models/jobs/dl-unknown/events"])
async def test_an_unknown_job_is_404_also_as_a_stream(client: httpx.AsyncClient, path: str) -> None:
    assert_refused(await client.get(path), 404, param="job_id")


@pytest.mark.parametrize("job_id", ["..", "a.b", "x" * 65, "%00"])
async def test_a_wrong_job_id_asks_nothing(client: httpx.AsyncClient, registry: FakeRegistry, job_id: str) -> None:
    assert (await client.get(f"/models/jobs/{quote(job_id, safe='%')}")).status_code in {400, 404}
    assert registry.asked == []


async def test_events_stream_the_job_until_its_end(client: httpx.AsyncClient, registry: FakeRegistry) -> None:
    registry.events = [
        JobEvent.of(job(sequence=1, step="downloading", done_bytes=5, total_bytes=10)),
        JobEvent.of(job(sequence=2, status="failed", error={"code": "disk_full", "message": "Đĩa đầy."})),
    ]
    answer = await client.get(f"/models/jobs/{JOB_ID}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, last, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert first.startswith("event: progress\nid: 1\ndata: {")
    assert json.loads(first.split("data: ")[1])["done_bytes"] == 5
    assert last.startswith("event: end\nid: 2\n")
    assert json.loads(last.split("data: ")[1])["error"]["message"] == "Đĩa đầy."
    assert registry.is_closed


async def test_silence_is_filled_so_that_the_line_stays_open(registry: FakeRegistry) -> None:
    registry.pause_s = 0.1
    frames = [frame async for frame in job_frames(registry.job_events(JOB_ID), keep_alive_s=0.02)]
    assert frames[0] == ": still running\n\n"
    assert frames[-2].startswith("event: end\n")
    assert frames[-1] == "data: [DONE]\n\n"


async def test_a_watcher_that_leaves_in_silence_closes_the_events(registry: FakeRegistry) -> None:
    registry.pause_s = 30.0
    frames = job_frames(registry.job_events(JOB_ID), keep_alive_s=0.02)
    await anext(frames)
    await frames.aclose()
    assert registry.is_closed


async def test_a_watcher_that_leaves_takes_the_error_its_leaving_causes() -> None:
    async def events() -> AsyncGenerator[JobEvent, None]:
        try:
            await asyncio.sleep(30.0)
        except asyncio.CancelledError:
            raise RuntimeError("the part died just then") from None
        yield JobEvent.of(job())

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    frames = job_frames(events(), keep_alive_s=0.02)
    await anext(frames)
    await frames.aclose()
    gc.collect()
    assert reported == []


async def test_an_error_in_the_middle_ends_the_stream_with_it(client: httpx.AsyncClient, registry: FakeRegistry) -> None:
    class Failing(FakeRegistry):
        async def job_events(self, job_id: str) -> Any:
            yield JobEvent.of(job())
            raise HubError("The jobs are gone. Start again.", code="gone")

    transport = httpx.ASGITransport(make_app(Failing()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        text = (await http.get(f"/models/jobs/{JOB_ID}/events")).text
    assert '"code": "gone"' in text
    assert text.endswith("data: [DONE]\n\n")
