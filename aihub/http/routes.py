"""Routes of the hub itself: `/health` and its kin, `/metrics`, `/docs`.

`/health` tells each part and the whole, `/health/live` and `/health/ready` what a supervisor and a load balancer ask. vLLM brings
Swagger UI's two files for `/docs`; where it is missing the page loads them from FastAPI's default CDN.
"""

import asyncio
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from aihub import __version__
from aihub.core.errors import NotFoundError, UnavailableError
from aihub.core.health import PartHealth, PartStatus
from aihub.core.schemas import ResponseModel
from aihub.http.services import ServicesDep


class PartReport(ResponseModel):
    """State of one part; `reason` says what is wrong unless the state is `ok`."""

    status: PartStatus
    reason: str | None = None


class HealthReport(ResponseModel):
    """The hub as a whole: `down` when a required part is, `degraded` when any part is not `ok`."""

    status: PartStatus
    version: str
    parts: dict[str, PartReport]


class LivenessReport(ResponseModel):
    """The process answers; nothing else was looked at."""

    status: Literal["ok"] = "ok"
    version: str


class ReadinessReport(ResponseModel):
    """Whether requests can be answered; `waits_for` has the required parts that are down."""

    status: Literal["ok", "down"]
    waits_for: dict[str, PartReport]


router = APIRouter(tags=["operation"])

OPTIONAL_PARTS = frozenset({"redis"})
"""Parts whose loss degrades the hub and never breaks a request."""


@router.get(
    "/health", response_model=HealthReport, responses={503: {"model": HealthReport, "description": "A required part is down."}}
)
async def get_health(services: ServicesDep) -> Response:
    """Say `ok`, `degraded` (200) or `down` (503), and why, for every part."""
    parts = await services.health()
    return _answer(summarise(parts), _missing(parts))


@router.get("/health/live")
async def get_liveness() -> LivenessReport:
    """Say that the process answers. No part is asked: restarting the hub would not bring one back."""
    return LivenessReport(version=__version__)


@router.get(
    "/health/ready",
    response_model=ReadinessReport,
    responses={503: {"model": ReadinessReport, "description": "A required part is down."}},
)
async def get_readiness(services: ServicesDep) -> Response:
    """Say whether requests can be answered; 503 while the default chat model is loaded at the start, or a part is down.

    A model that is not loaded, or that a request is loading, does not count as down.
    """
    missing = _missing(await services.health())
    waits_for = {name: PartReport(status=part.status, reason=part.reason) for name, part in missing.items()}
    return _answer(ReadinessReport(status="down" if missing else "ok", waits_for=waits_for), missing)


def summarise(parts: dict[str, PartHealth]) -> HealthReport:
    """Return the whole's state: down with a required part, degraded when any part is not ok."""
    is_degraded = any(part.status != "ok" for part in parts.values())
    return HealthReport(
        status="down" if _missing(parts) else "degraded" if is_degraded else "ok",
        version=__version__,
        parts={name: PartReport(status=part.status, reason=part.reason) for name, part in parts.items()},
    )


def _missing(parts: dict[str, PartHealth]) -> dict[str, PartHealth]:
    """Return the required parts that are down."""
    return {name: part for name, part in parts.items() if part.status == "down" and name not in OPTIONAL_PARTS}


def _answer(report: BaseModel, missing: dict[str, PartHealth]) -> Response:
    if not missing:
        return JSONResponse(report.model_dump())
    error = UnavailableError(f"Parts that are down: {', '.join(missing)}.")
    content = report.model_dump() | error.to_openai()
    return JSONResponse(content, status_code=error.status, headers={"Retry-After": str(error.retry_after_s)})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def get_metrics(services: ServicesDep) -> Response:
    """The counters, gauges and histograms of the API, of the model manager and of the recommender.

    Where the hub may have several replicas, the API's samples have the label `replica` and come from all of them.
    """
    others = await services.more_metrics()  # first: the own metrics count those that failed
    replicas = services.replica_metrics
    own = generate_latest(services.metrics.registry) if replicas is None else await replicas()
    return Response(own + others, media_type=CONTENT_TYPE_LATEST)


docs_router = APIRouter(include_in_schema=False)

_MEDIA_TYPES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@docs_router.get("/docs")
async def get_docs(request: Request) -> HTMLResponse:
    title = f"{request.app.title} API"
    if await asyncio.to_thread(_assets) is None:
        return get_swagger_ui_html(openapi_url="/openapi.json", title=title)
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


@docs_router.get("/docs/{name}")
async def get_docs_file(name: str) -> Response:
    assets = await asyncio.to_thread(_assets)
    if assets is None or name not in _MEDIA_TYPES:
        raise NotFoundError("The documentation page has no such file.")
    content = await asyncio.to_thread((assets / name).read_bytes)
    return Response(content, media_type=_MEDIA_TYPES[name], headers={"Cache-Control": "max-age=86400"})


@cache
def _assets() -> Path | None:
    spec = find_spec("vllm")
    for package in spec.submodule_search_locations or () if spec is not None else ():
        folder = Path(package, "entrypoints", "serve", "instrumentator", "static")
        if all((folder / name).is_file() for name in _MEDIA_TYPES):
            return folder
    return None
