from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from aihub import __version__
from aihub.core.health import PartHealth
from tests.unit.http.services import Parts


async def test_all_parts_ok_is_ok(client: httpx.AsyncClient) -> None:
    response = await client.get("/health")
    assert response.status_code == 200
    report = response.json()
    assert report["status"] == "ok"
    assert report["version"] == __version__
    assert report["parts"]["llm"] == {"status": "ok", "reason": None}


async def test_lost_redis_degrades_and_says_why(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.health["redis"] = PartHealth("down", "connection refused")
    response = await client.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["parts"]["redis"] == {"status": "down", "reason": "connection refused"}


@pytest.mark.parametrize("part", ["llm", "embeddings", "postgres"])
async def test_lost_required_part_is_503_with_report_error_and_retry_after(
    client: httpx.AsyncClient, parts: Parts, part: str
) -> None:
    parts.health[part] = PartHealth("down", "gone")
    response = await client.get("/health")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    report = response.json()
    assert report["status"] == "down"
    assert report["parts"][part]["reason"] == "gone"
    assert report["error"]["code"] == "service_unavailable"
    assert part in report["error"]["message"]


async def test_degraded_required_part_degrades_only(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.health["llm"] = PartHealth("degraded", "its queue is full")
    response = await client.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "degraded"


async def test_liveness_asks_no_part(client: httpx.AsyncClient, app: FastAPI, parts: Parts) -> None:
    async def never() -> dict[str, PartHealth]:
        raise AssertionError("a part was asked")

    app.state.services = replace(parts.services(), health=never)
    response = await client.get("/health/live")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "version": __version__}


async def test_readiness_is_200_with_nothing_to_wait_for(client: httpx.AsyncClient) -> None:
    response = await client.get("/health/ready")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "waits_for": {}}


@pytest.mark.parametrize("part", ["llm", "models", "embeddings", "postgres"])
async def test_readiness_is_503_with_retry_after_while_a_required_part_is_down(
    client: httpx.AsyncClient, parts: Parts, part: str
) -> None:
    parts.health[part] = PartHealth("down", "starting")
    response = await client.get("/health/ready")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    report = response.json()
    assert report["waits_for"] == {part: {"status": "down", "reason": "starting"}}
    assert part in report["error"]["message"]


async def test_idle_model_and_lost_redis_leave_the_hub_ready(client: httpx.AsyncClient, parts: Parts) -> None:
    parts.health["redis"] = PartHealth("down", "connection refused")
    parts.health["llm"] = PartHealth("ok", "idle: loads on the next request")
    assert (await client.get("/health/ready")).status_code == 200
