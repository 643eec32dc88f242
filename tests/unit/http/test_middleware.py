"""Which requests reach a route at all: those for the hub's own names, and not from pages of other sites."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast
from urllib.parse import unquote

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route, WebSocketRoute

from aihub.accounts.fake import FakeAuthenticator
from aihub.core.errors import ConfigurationError
from aihub.core.logging import add_response_header, configure_logging
from aihub.core.metrics import RequestMetrics
from aihub.core.settings import Settings
from aihub.http.app import create_app, create_prediction_app
from aihub.http.services import PredictionServices
from aihub.models.metrics import RegistryMetrics
from aihub.recsys.service import PredictionService
from tests.unit.conftest import KEY, LiveServer, assert_refused, chat_body
from tests.unit.http.services import Parts


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await client.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_every_answer_carries_its_own_request_id(client: httpx.AsyncClient) -> None:
    responses = [await client.get(path) for path in ("/health", "/v1/models", "/nothing", "/metrics", "/openapi.json")]
    ids = [response.headers["x-request-id"] for response in responses]
    assert all(request_id.startswith("req_") for request_id in ids)
    assert len(set(ids)) == len(ids)


async def test_well_formed_request_id_of_the_client_is_kept(client: httpx.AsyncClient) -> None:
    response = await client.get("/health", headers={"x-request-id": "trace-1.2_3"})
    assert response.headers.get_list("x-request-id") == ["trace-1.2_3"]


@pytest.mark.parametrize("sent", ["a b", "x" * 129, "<script>", ""])
async def test_malformed_request_id_is_replaced(client: httpx.AsyncClient, sent: str) -> None:
    response = await client.get("/health", headers={"x-request-id": sent})
    assert response.headers["x-request-id"].startswith("req_")


async def test_requests_are_counted_by_template_and_status(client: httpx.AsyncClient) -> None:
    await client.get("/v1/models/fake-chat")
    await client.get("/v1/models/other")
    counted = await samples(client)
    template = ("route", "/v1/models/{model_id:path}")
    assert counted["aihub_http_requests_total", (("method", "GET"), template, ("status", "200"))] == 1
    assert counted["aihub_http_requests_total", (("method", "GET"), template, ("status", "404"))] == 1
    assert counted["aihub_http_request_seconds_count", (("method", "GET"), template)] == 2


async def test_unknown_paths_and_methods_share_one_label(client: httpx.AsyncClient) -> None:
    for path in ("/a", "/b", "/wp-login.php"):
        await client.get(path)
    await client.request("BREW", "/coffee")
    counted = await samples(client)
    unmatched = {key: value for key, value in counted.items() if key[0] == "aihub_http_requests_total" and value == 4}
    labels = (("method", "any"), ("route", "unmatched"), ("status", "404"))
    assert unmatched == {("aihub_http_requests_total", labels): 4}


async def test_invented_methods_share_one_label(client: httpx.AsyncClient) -> None:
    for method in ("BREW", "STEEP"):
        assert (await client.request(method, "/v1/models")).status_code == 405
    counted = await samples(client)
    labels = (("method", "any"), ("route", "/v1/models"), ("status", "405"))
    assert counted["aihub_http_requests_total", labels] == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_counted_from_usage(client: httpx.AsyncClient, stream: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    await client.post("/v1/chat/completions", json=chat_body(**options))
    counted = await samples(client)
    route = ("route", "/v1/chat/completions")
    assert counted["aihub_tokens_total", (("kind", "prompt"), route)] == 2
    assert counted["aihub_tokens_total", (("kind", "completion"), route)] == 4
    assert counted.get(("aihub_first_token_seconds_count", (route,)), 0) == (1 if stream else 0)


async def test_no_request_is_in_flight_after_all_answers_but_the_probe_itself(client: httpx.AsyncClient) -> None:
    await client.post("/v1/chat/completions", json=chat_body(stream=True))
    await client.get("/nothing")
    assert (await samples(client))["aihub_http_requests_in_flight", ()] == 1


async def test_decisions_about_a_request_are_headers_of_its_answer_only(client: httpx.AsyncClient, parts: Parts) -> None:
    def answer(prompt: str) -> str:
        if "auto" in prompt:
            add_response_header("x-aihub-model", "mô-hình")
            add_response_header("x-aihub-route-reasons", "task chat; loaded 35\r\nset-cookie: a=b")
        return "Chào bạn."

    parts.engine._answer = answer
    for stream in (False, True):
        noted = await client.post(
            "/v1/chat/completions", json=chat_body(messages=[{"role": "user", "content": "auto"}], stream=stream)
        )
        assert unquote(noted.headers["x-aihub-model"]) == "mô-hình"
        assert unquote(noted.headers["x-aihub-route-reasons"]).startswith("task chat; loaded 35")
        assert "set-cookie" not in noted.headers
    plain = await client.post("/v1/chat/completions", json=chat_body())
    assert not [name for name in plain.headers if name in {"x-aihub-model", "x-aihub-route-reasons"}]


async def test_metrics_of_other_processes_follow_the_replicas_own(app: FastAPI, client: httpx.AsyncClient, parts: Parts) -> None:
    async def others() -> bytes:
        registry = CollectorRegistry()
        RegistryMetrics(registry).set_totals(total=5, available=3, required=2, missing_required=1)
        return generate_latest(registry)

    app.state.services = replace(parts.services(), more_metrics=others)
    counted = await samples(client)
    assert counted["aihub_registry_models", (("state", "missing_required"),)] == 1
    assert counted["aihub_http_requests_in_flight", ()] == 1
    families = [line.split()[2] for line in (await client.get("/metrics")).text.splitlines() if line.startswith("# TYPE")]
    assert len(set(families)) == len(families)


class TestLogging:
    @pytest.fixture
    def log(self) -> Iterator[io.StringIO]:
        stream = io.StringIO()
        configure_logging("INFO", stream)
        yield stream
        for name in ("aihub", "pipelines", "deployments", "training"):
            logging.getLogger(name).handlers = []
            logging.getLogger(name).propagate = True
            logging.getLogger(name).setLevel(logging.NOTSET)

    async def test_each_request_is_one_json_line_without_text_or_keys(self, client: httpx.AsyncClient, log: io.StringIO) -> None:
        response = await client.post("/v1/chat/completions?key=in-the-query", json=chat_body())
        (line,) = [json.loads(text) for text in log.getvalue().splitlines()]
        assert line["request_id"] == response.headers["x-request-id"]
        assert line["fields"]["route"] == "/v1/chat/completions"
        assert line["fields"]["status"] == 200
        for hidden in (KEY.text, "Xin chào", "in-the-query"):
            assert hidden not in log.getvalue()

    async def test_bug_is_logged_with_traceback_and_request_id(
        self, client: httpx.AsyncClient, parts: Parts, log: io.StringIO
    ) -> None:
        def broken(_: str) -> str:
            raise RuntimeError("broken part")

        parts.engine._answer = broken
        response = await client.post("/v1/chat/completions", json=chat_body())
        lines = [json.loads(text) for text in log.getvalue().splitlines()]
        (error,) = [line for line in lines if line["level"] == "ERROR"]
        assert "RuntimeError: broken part" in error["exception"]
        assert error["request_id"] == response.headers["x-request-id"]


FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": ""},
]
OWN: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": "http://localhost"},
    {"Origin": "http://LOCALHOST:80"},
]
READING = {"GET", "HEAD", "OPTIONS"}


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            continue  # test_websockets.py connects to each
        assert isinstance(route, Route | APIRoute), route
        for method in sorted(route.methods or ()):
            yield method, route.path


def prediction_app() -> FastAPI:
    return create_prediction_app(
        PredictionServices(Settings(), FakeAuthenticator(), cast(PredictionService, None), RequestMetrics())
    )


def calling(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", **options)


@pytest.fixture(scope="module")
def extended_app() -> FastAPI:
    """The whole application, and routes nobody thought of yet."""
    app = create_app(Parts().services())
    router = APIRouter()
    router.add_api_route("/added-later", lambda: {}, methods=["POST", "PUT", "PATCH", "DELETE"])
    app.include_router(router)
    return app


@pytest.mark.parametrize("headers", FOREIGN)
async def test_no_route_that_changes_something_is_open_to_pages_of_other_sites(
    extended_app: FastAPI, headers: dict[str, str]
) -> None:
    seen = 0
    for guarded in (extended_app, prediction_app()):
        async with calling(guarded, headers=headers) as http:
            for method, path in routes_of(guarded):
                if method not in READING:
                    assert_refused(await http.request(method, path), 403, code="foreign_page")
                    seen += 1
    assert seen > 40


async def test_a_form_of_another_site_uploads_nothing(client: httpx.AsyncClient) -> None:
    """Browsers send such a form without asking first; only what the page may read is limited."""
    files, data = {"file": ("a.txt", b"planted")}, {"purpose": "assistants"}
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}
    refused = await client.post("/v1/files", files=files, data=data, headers=headers)
    assert_refused(refused, 403, code="foreign_page")
    assert refused.headers["connection"] == "close"


@pytest.mark.parametrize("headers", OWN)
async def test_programs_and_the_hubs_own_pages_may(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.post("/v1/chat/completions", json=chat_body(), headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN)
async def test_pages_of_other_sites_may_link_here(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.get("/docs", headers=headers)).status_code == 200


async def test_a_browser_in_the_local_network_is_known_by_its_origin(client: httpx.AsyncClient) -> None:
    headers = {"Host": "10.0.0.7:8000", "Origin": "http://10.0.0.7:8000"}
    assert (await client.post("/v1/chat/completions", json=chat_body(), headers=headers)).status_code == 200
    other = headers | {"Origin": "http://10.0.0.7"}
    assert_refused(await client.post("/v1/chat/completions", json=chat_body(), headers=other), 403, code="foreign_page")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io:8000"])
async def test_no_route_answers_to_a_foreign_name(app: FastAPI, host: str) -> None:
    app.state.services = Parts().services()
    paths = [*routes_of(app), ("GET", "/nothing")]
    async with calling(app, headers={"Host": host}) as http:
        for method, path in paths:
            answer = await http.request(method, path)
            assert answer.status_code == 403, path
            if method != "HEAD":
                error = assert_refused(answer, 403, code="host_not_allowed")
                assert "AIHUB_ALLOWED_HOSTS" in error["message"]
    assert len(paths) > 60


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000", "192.168.1.20:8000"])
async def test_this_machine_and_addresses_are_always_answered(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/health", headers={"Host": host})).status_code == 200


async def test_configured_names_are_answered(app: FastAPI) -> None:
    app.state.services = replace(Parts().services(), settings=Settings(allowed_hosts=("hub.example.org", "*.lan")))
    async with calling(app) as http:
        for host in ("hub.example.org", "HUB.example.org:8000", "box.lan"):
            assert (await http.get("/health", headers={"Host": host})).status_code == 200
        assert_refused(await http.get("/health", headers={"Host": "example.org"}), 403, code="host_not_allowed")


@pytest.mark.parametrize("host", ["", "a b", "localhost/x", "evil.example,localhost", "user@localhost", "localhost:port"])
async def test_a_host_header_that_names_no_host_is_refused(client: httpx.AsyncClient, host: str) -> None:
    assert_refused(await client.get("/health", headers={"Host": host}), 400, code="invalid_host")


@pytest.mark.parametrize("hosts", [b"", b"Host: localhost\r\nHost: evil.example\r\n", b"Host: localhost\r\nHost: localhost\r\n"])
def test_none_or_two_host_headers_are_refused(server: LiveServer, hosts: bytes) -> None:
    answer = server.send_raw(b"GET /health HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_the_setting_is_a_list_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIHUB_ALLOWED_HOSTS", "Hub.example.org, *.lan ,")
    assert Settings().allowed_hosts == ("hub.example.org", "*.lan")
    monkeypatch.setenv("AIHUB_ALLOWED_HOSTS", "https://hub.example.org")
    with pytest.raises(ConfigurationError, match="AIHUB_ALLOWED_HOSTS.*without scheme"):
        Settings()
