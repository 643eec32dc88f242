"""Which requests reach a route at all: those for the hub's own names, and not from pages of other sites."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route

from aihub.core.errors import ConfigurationError
from aihub.core.metrics import RequestMetrics
from aihub.core.settings import Settings
from aihub.http.app import create_app, create_prediction_app
from aihub.http.services import PredictionServices
from aihub.recsys.service import PredictionService
from tests.unit.conftest import LiveServer, assert_refused, chat_body
from tests.unit.http.services import Parts

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
        assert isinstance(route, Route | APIRoute), route
        for method in sorted(route.methods or ()):
            yield method, route.path


def prediction_app() -> FastAPI:
    return create_prediction_app(PredictionServices(Settings(), cast(PredictionService, None), RequestMetrics()))


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
