"""The access table, held against the routers of both applications."""

from collections.abc import Iterator
from typing import cast

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute

from aihub.accounts.fake import FakeAuthenticator
from aihub.core.metrics import RequestMetrics
from aihub.core.principal import Principal, Role
from aihub.core.settings import Settings
from aihub.http.access import ACCESS, WEBSOCKET, Access
from aihub.http.app import create_app, create_prediction_app
from aihub.http.authorization import AccessTable, is_within
from aihub.http.services import PredictionServices
from aihub.recsys.service import PredictionService
from tests.unit.conftest import assert_refused
from tests.unit.http.keys import ADMIN_KEY, USER_KEY, bearer, known_keys
from tests.unit.http.services import Parts
from tests.unit.http.test_websockets import connect, error_of

RANK: dict[Access, int] = {"open": 0, "user": 1, "admin": 2}


def routes_of(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and template of each route; a websocket's method is `WEBSOCKET`."""
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            yield WEBSOCKET, route.path
            continue
        assert isinstance(route, Route | APIRoute), route
        for method in sorted(route.methods or ()):
            yield method, route.path


def unlisted(app: FastAPI) -> list[str]:
    """Routes of an application that the table does not have; what `GET` may, `HEAD` may."""
    return [f"{method} {path}" for method, path in routes_of(app) if method != "HEAD" and f"{method} {path}" not in ACCESS]


def hub_app(authenticator: FakeAuthenticator) -> FastAPI:
    return create_app(Parts(authenticator=authenticator).services())


def prediction_app(authenticator: FakeAuthenticator) -> FastAPI:
    return create_prediction_app(PredictionServices(Settings(), authenticator, cast(PredictionService, None), RequestMetrics()))


@pytest.fixture(scope="module")
def apps() -> list[FastAPI]:
    """Both applications, with keys."""
    return [hub_app(known_keys()), prediction_app(known_keys())]


@pytest.fixture
def extended_app() -> FastAPI:
    """The whole application, and routes nobody thought of yet."""
    app = hub_app(known_keys())
    router = APIRouter()
    router.add_api_route("/added-later", lambda: {}, methods=["GET", "POST"])
    router.add_api_route("/v1/{anything:path}/added", lambda: {}, methods=["PUT"])

    @router.websocket("/added-later")
    async def added(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(1000)

    app.include_router(router)
    return app


def calling(app: FastAPI, key: str | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=bearer(key) if key else {})


def test_table_lists_every_route_of_both_applications_and_nothing_else(apps: list[FastAPI]) -> None:
    """A new route must be listed on purpose, after a look at who may call it."""
    assert [unlisted(app) for app in apps] == [[], []]
    assert set(ACCESS) - {f"{method} {path}" for method, path in routes_of(apps[0])} == set()


def test_new_route_is_noticed(extended_app: FastAPI) -> None:
    assert unlisted(extended_app) == [
        "GET /added-later",
        "POST /added-later",
        "PUT /v1/{anything:path}/added",
        "WEBSOCKET /added-later",
    ]


def test_only_health_is_open() -> None:
    assert {route for route, access in ACCESS.items() if access == "open"} == {
        "GET /health",
        "GET /health/live",
        "GET /health/ready",
    }


@pytest.mark.parametrize(
    "route",
    [
        "GET /metrics",
        "POST /api/v1/adapters/promote",
        "POST /api/v1/models/load",
        "POST /api/v1/models/unload",
        "POST /models/configure",
        "POST /models/download/{key:path}",
        "POST /train/recommendation",
        "POST /v1/fine_tuning/jobs",
    ],
)
def test_what_changes_the_hub_is_the_administrators(route: str) -> None:
    assert ACCESS[route] == "admin"


async def test_every_route_but_health_needs_a_key(apps: list[FastAPI], extended_app: FastAPI) -> None:
    seen = 0
    for app in (*apps, extended_app):
        async with calling(app) as http:
            for method, path in routes_of(app):
                if path.startswith("/health"):
                    assert (await http.request(method, path)).status_code != 401
                elif method == WEBSOCKET:
                    status, error = error_of(await connect(app, path))
                    assert (status, error["code"]) == (401, "missing_api_key")
                    seen += 1
                else:
                    answer = await http.request(method, path)
                    assert answer.status_code == 401, f"{method} {path}"
                    assert answer.headers["www-authenticate"] == "Bearer"
                    seen += 1
    assert seen > 190


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nothing"),
        ("GET", "/"),
        ("GET", "/v1/models/"),
        ("GET", "/health/"),
        ("GET", "//health"),
        ("GET", "/health%0a"),
        ("GET", "/health/../metrics"),
        ("GET", "/HEALTH"),
        ("POST", "/health"),
        ("OPTIONS", "/health"),
        ("OPTIONS", "/v1/models"),
        ("HEAD", "/v1/models"),
        ("PUT", "/v1/models"),
        ("BREW", "/v1/models"),
        ("TRACE", "/health"),
    ],
)
async def test_wrong_paths_and_methods_need_a_key_too(apps: list[FastAPI], method: str, path: str) -> None:
    for app in apps:
        async with calling(app) as http:
            assert (await http.request(method, path)).status_code == 401


async def test_unknown_websocket_needs_a_key_too(apps: list[FastAPI]) -> None:
    assert error_of(await connect(apps[0], "/v1/audio/streams"))[0] == 401
    assert error_of(await connect(apps[0], "/v1/audio/streams", (b"authorization", f"Bearer {USER_KEY}".encode())))[0] == 404


async def test_user_is_refused_every_route_of_the_administrators(apps: list[FastAPI], extended_app: FastAPI) -> None:
    refused = []
    for app in (*apps, extended_app):
        async with calling(app, USER_KEY) as http:
            for method, path in routes_of(app):
                if method == WEBSOCKET or ACCESS.get(f"{'GET' if method == 'HEAD' else method} {path}", "admin") != "admin":
                    continue
                answer = await http.request(method, path)
                assert answer.status_code == 403, f"{method} {path}"
                if method != "HEAD":
                    assert_refused(answer, 403, code="admin_required")
                refused.append(f"{method} {path}")
    assert {route for route, access in ACCESS.items() if access == "admin"} <= set(refused)
    assert {"GET /added-later", "PUT /v1/{anything:path}/added"} <= set(refused)
    status, error = error_of(await connect(extended_app, "/added-later", (b"authorization", f"Bearer {USER_KEY}".encode())))
    assert (status, error["code"]) == (403, "admin_required")


async def test_user_passes_every_other_route_and_the_administrator_passes_all(apps: list[FastAPI]) -> None:
    for app in apps:
        for key, role in ((USER_KEY, "user"), (ADMIN_KEY, "admin")):
            async with calling(app, key) as http:
                for method, path in routes_of(app):
                    if method != WEBSOCKET and RANK[ACCESS[f"{'GET' if method == 'HEAD' else method} {path}"]] <= RANK[role]:
                        # What lies behind may be missing here; the guards have let it pass.
                        assert (await http.request(method, path)).status_code not in {401, 403}, f"{method} {path}"


async def test_user_learns_that_a_path_or_method_is_wrong(apps: list[FastAPI]) -> None:
    async with calling(apps[0], USER_KEY) as http:
        assert_refused(await http.get("/nothing"), 404, code="unknown_url")
        assert_refused(await http.get("/metrics%0a"), 404, code="unknown_url")
        assert_refused(await http.put("/v1/models"), 405)
        assert_refused(await http.post("/health"), 405)


async def test_open_hub_needs_no_key_and_minds_none() -> None:
    app = hub_app(FakeAuthenticator())
    async with calling(app) as http:
        assert (await http.get("/v1/models")).status_code == 200
        assert (await http.get("/metrics", headers=bearer("unused"))).status_code == 200


SCOPED = "aihub_scoped00_" + "s" * 43


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/fake-chat", 200),
        ("POST", "/v1/audio/transcriptions", 415),
        ("GET", "/v1/audio/stream", 426),
        ("GET", "/v1/files/file_1", 403),
        ("POST", "/v1/chat/completions", 403),
        ("GET", "/metrics", 403),
        ("GET", "/nothing", 403),
        ("GET", "/v1/audio/nothing", 404),
        ("GET", "/health", 200),
    ],
)
@pytest.mark.parametrize("role", ["user", "admin"])
async def test_key_for_some_routes_is_for_no_others(method: str, path: str, status: int, role: Role) -> None:
    principal = Principal(role=role, routes=frozenset({"/v1/models", "/v1/audio"}))
    app = hub_app(FakeAuthenticator({SCOPED: principal}))
    async with calling(app, SCOPED) as http:
        answer = await http.request(method, path)
    assert answer.status_code == status, answer.text
    if status == 403:
        error = assert_refused(answer, 403)
        assert error["code"] == ("admin_required" if role == "user" and path == "/metrics" else "route_not_allowed")


@pytest.mark.parametrize(
    ("template", "beginning", "expected"),
    [
        ("/v1/audio/stream", "/v1/audio", True),
        ("/v1/audio/stream", "/v1/audio/", True),
        ("/v1/audio/stream", "/v1/audio/stream", True),
        ("/v1/audio/stream", "/v1/aud", False),
        ("/v1/models/{model_id:path}", "/v1/models", True),
        ("/v1/models", "/v1/models/{model_id:path}", False),
        ("/v1/models", "/", True),
        ("/v1/models", "", False),
        ("/v1/models/../../metrics", "/metrics", False),
    ],
)
def test_beginning_of_a_route_counts_by_whole_segments(template: str, beginning: str, expected: bool) -> None:
    assert is_within(template, {beginning}) is expected


words = {part for route in ACCESS for part in route.split(" ")[1].split("/")} | {"x", "a:b", "a b", "é", "..", "\n"}
paths = st.lists(st.sampled_from(sorted(words)), min_size=1, max_size=7).map(lambda parts: "/" + "/".join(parts))
methods = st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"])


TABLE = AccessTable()


@given(method=methods, path=paths)
@settings(max_examples=2000)
def test_table_never_finds_a_weaker_rule_than_that_of_the_route_that_answers(method: str, path: str) -> None:
    rule = TABLE.find(method, path)
    answering = route_that_answers(ROUTES, method, path)
    if answering is None:
        return
    listed = "GET" if method == "HEAD" else method
    required = ACCESS[f"{listed} {answering}"]
    assert RANK["admin" if rule is None else rule.access] >= RANK[required]
    assert rule is not None
    assert rule.template == answering


ROUTES: list[BaseRoute] = hub_app(FakeAuthenticator()).routes


def route_that_answers(routes: list[BaseRoute], method: str, path: str) -> str | None:
    """The template that the router takes."""
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    return next((route.path for route in routes if route.matches(scope)[0] is Match.FULL), None)


def test_each_listed_route_is_found_by_its_own_rule() -> None:
    table = AccessTable()
    for route, access in ACCESS.items():
        method, path = route.split(" ")
        found = table.find(method, path.replace("{", "x").replace(":path}", "/y").replace("}", "z"))
        assert found is not None
        assert (found.route, found.access) == (route, access)


def test_strictest_of_two_patterns_counts() -> None:
    table = AccessTable({"GET /a/{b}": "user", "GET /{a}/c": "admin"})
    found = table.find("GET", "/a/c")
    assert found is not None
    assert found.access == "admin"
