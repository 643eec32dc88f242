import httpx
import pytest

from aihub import __version__
from aihub.engines.base import PartHealth

from .services import Parts


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
