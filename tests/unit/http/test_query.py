"""What every route refuses in its query, through the whole application."""

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from aihub.http.bodies import StrictRoute
from aihub.http.query import OWN_PATHS
from tests.unit.conftest import assert_refused

CONVERSATIONS = "/api/v1/chat/conversations"


@pytest.mark.parametrize(
    ("path", "param"),
    [
        (f"{CONVERSATIONS}?q=xin%00chào", "q"),
        (f"{CONVERSATIONS}?cursor=%00", "cursor"),
        ("/v1/files?purpose=%00", "purpose"),
        ("/v1/fine_tuning/jobs?metadata[a]=%00", "metadata[a]"),
        ("/v1/fine_tuning/jobs?metadata[%00]=b", "metadata[\\0]"),
    ],
)
async def test_nul_is_refused_by_the_name_of_its_parameter(client: httpx.AsyncClient, path: str, param: str) -> None:
    assert_refused(await client.get(path), 400, param=param, code="invalid_value")


@pytest.mark.parametrize(
    ("path", "param"),
    [
        (f"{CONVERSATIONS}?q=a&q=b", "q"),
        ("/v1/files?limit=1&limit=2", "limit"),
        ("/v1/vector_stores?order=asc&order=asc", "order"),
        ("/api/v1/system/analytics?from=2026-03-01&from=2026-03-02", "from"),
    ],
)
async def test_second_value_of_a_parameter_that_takes_one_is_refused(client: httpx.AsyncClient, path: str, param: str) -> None:
    error = assert_refused(await client.get(path), 400, param=param, code="invalid_value")
    assert "send it once" in error["message"]


@pytest.mark.parametrize("path", [f"{CONVERSATIONS}?limi=5", f"{CONVERSATIONS}/conv_1/export?limi=5", "/api/v1/account?limi=5"])
async def test_routes_of_the_hubs_own_refuse_unknown_parameters(client: httpx.AsyncClient, path: str) -> None:
    assert_refused(await client.get(path), 400, param="limi", code="unknown_parameter")


async def test_routes_of_openai_ignore_unknown_parameters_as_new_clients_send_them(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models?include[]=a&include[]=b")).status_code == 200


def test_every_route_of_the_hubs_own_checks_its_query(app: FastAPI) -> None:
    own = [route for route in app.routes if isinstance(route, APIRoute) and route.path.startswith(OWN_PATHS)]
    assert len(own) > 20
    assert [route.path for route in own if not isinstance(route, StrictRoute)] == []
