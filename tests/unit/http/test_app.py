import re
from importlib.util import find_spec

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from aihub.http.bodies import StrictRoute
from tests.unit.conftest import assert_refused


def test_every_route_with_a_json_body_reads_it_strictly(app: FastAPI) -> None:
    with_body = [route for route in app.routes if isinstance(route, APIRoute) and route.body_field is not None]
    assert len(with_body) > 5
    assert [route.path for route in with_body if not isinstance(route, StrictRoute)] == []


async def test_openapi_describes_errors_as_they_are_sent(client: httpx.AsyncClient) -> None:
    spec = (await client.get("/openapi.json")).json()
    assert "HTTPValidationError" not in spec["components"]["schemas"]
    chat = spec["paths"]["/v1/chat/completions"]["post"]
    assert chat["responses"]["4XX"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "retrieval" in spec["components"]["schemas"]["ChatCompletionRequest"]["properties"]


async def test_openapi_says_that_all_but_health_needs_a_key(client: httpx.AsyncClient) -> None:
    spec = (await client.get("/openapi.json")).json()
    (name, scheme) = next(iter(spec["components"]["securitySchemes"].items()))
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert spec["security"] == [{name: []}]
    operations = {path: operation for path, item in spec["paths"].items() for operation in item.values()}
    unguarded = {path for path, operation in operations.items() if operation.get("security") == []}
    assert unguarded == {"/health", "/health/live", "/health/ready"}


async def test_openapi_operation_ids_are_unique(client: httpx.AsyncClient) -> None:
    spec = (await client.get("/openapi.json")).json()
    ids = [operation["operationId"] for path in spec["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids)


async def test_docs_page_is_served(client: httpx.AsyncClient) -> None:
    assert "/openapi.json" in (await client.get("/docs")).text


async def test_docs_page_needs_no_internet_where_vllm_is_installed(client: httpx.AsyncClient) -> None:
    if find_spec("vllm") is None:
        pytest.skip("vLLM, which brings the page's files, is not installed")
    page = (await client.get("/docs")).text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert "/docs/swagger-ui-bundle.js" in loaded
    assert not [url for url in loaded if url.startswith("http")]
    for url in loaded:
        if url.startswith("/"):
            assert len((await client.get(url)).content) > 10_000


@pytest.mark.parametrize("name", ["other.js", "..%2f__init__.py", "%2e%2e"])
async def test_docs_serve_no_other_file(client: httpx.AsyncClient, name: str) -> None:
    assert_refused(await client.get(f"/docs/{name}"), 404)
