import re
from importlib.util import find_spec

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from aihub.http.bodies import StrictRoute
from tests.unit.conftest import assert_refused

ROUTES = """
- /v1/audio/stream
DELETE /api/v1/adapters/{adapter_id:path}
DELETE /api/v1/training/jobs/{job_id}
DELETE /models/jobs/{job_id}
DELETE /train/jobs/{job_id}
DELETE /v1/files/{file_id}
DELETE /v1/models/{model_id:path}
DELETE /v1/vector_stores/{store_id}
DELETE /v1/vector_stores/{store_id}/files/{file_id}
GET /api/v1/account
GET /api/v1/adapters
GET /api/v1/adapters/{adapter_id:path}
GET /api/v1/models
GET /api/v1/models/info
GET /api/v1/models/status
GET /api/v1/system/analytics
GET /api/v1/system/analytics/export
GET /api/v1/training/jobs
GET /api/v1/training/jobs/{job_id}
GET /api/v1/training/jobs/{job_id}/progress
GET /api/v1/training/jobs/{job_id}/status
GET /docs
GET /docs/{name}
GET /health
GET /health/live
GET /health/ready
GET /metrics
GET /models/configuration
GET /models/detect
GET /models/health
GET /models/jobs
GET /models/jobs/{job_id}
GET /models/jobs/{job_id}/events
GET /models/recommended
GET /models/status
GET /models/update/{key:path}
GET /models/versions/{key:path}
GET /openapi.json
GET /train/jobs/{job_id}
GET /train/status/{store_id}
GET /v1/audio/stream
GET /v1/files
GET /v1/files/{file_id}
GET /v1/files/{file_id}/content
GET /v1/fine_tuning/jobs
GET /v1/fine_tuning/jobs/{job_id}
GET /v1/fine_tuning/jobs/{job_id}/checkpoints
GET /v1/fine_tuning/jobs/{job_id}/events
GET /v1/models
GET /v1/models/{model_id:path}
GET /v1/vector_stores
GET /v1/vector_stores/{store_id}
GET /v1/vector_stores/{store_id}/file_batches/{batch_id}
GET /v1/vector_stores/{store_id}/file_batches/{batch_id}/files
GET /v1/vector_stores/{store_id}/files
GET /v1/vector_stores/{store_id}/files/{file_id}
GET /v1/vector_stores/{store_id}/files/{file_id}/content
POST /api/v1/adapters/merge
POST /api/v1/adapters/promote
POST /api/v1/adapters/rollback
POST /api/v1/chat/completions
POST /api/v1/models/clear_cache
POST /api/v1/models/generation_config
POST /api/v1/models/load
POST /api/v1/models/pin
POST /api/v1/models/unload
POST /api/v1/models/unpin
POST /api/v1/training/jobs
POST /models/cleanup
POST /models/configure
POST /models/download/{key:path}
POST /models/ensure
POST /models/pin
POST /models/rollback
POST /models/unpin
POST /models/validate
POST /predict/next-items
POST /predict/recommendations
POST /predict/trending
POST /train/next-item
POST /train/recommendation
POST /train/rollback
POST /train/trending
POST /v1/audio/transcriptions
POST /v1/chat/completions
POST /v1/completions
POST /v1/embeddings
POST /v1/files
POST /v1/fine_tuning/jobs
POST /v1/fine_tuning/jobs/{job_id}/cancel
POST /v1/fine_tuning/jobs/{job_id}/pause
POST /v1/fine_tuning/jobs/{job_id}/resume
POST /v1/generate
POST /v1/vector_stores
POST /v1/vector_stores/{store_id}
POST /v1/vector_stores/{store_id}/file_batches
POST /v1/vector_stores/{store_id}/file_batches/{batch_id}/cancel
POST /v1/vector_stores/{store_id}/files
POST /v1/vector_stores/{store_id}/files/{file_id}
POST /v1/vector_stores/{store_id}/search
POST /v1/voice/ask
"""


def test_route_table_holds_exactly_the_listed_routes(app: FastAPI) -> None:
    """A new route must be listed here on purpose, after a look at who may call it."""
    found = sorted(
        f"{method} {route.path}" for route in app.routes for method in getattr(route, "methods", ["-"]) if method != "HEAD"
    )
    assert found == ROUTES.split("\n")[1:-1]


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
