"""`/health`: each part and the whole. `/health/live` and `/health/ready`: what a supervisor and a load balancer ask."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from aihub import __version__
from aihub.api.deps import ServicesDep
from aihub.engines.base import PartHealth
from aihub.errors import UnavailableError
from aihub.schemas.health import HealthReport, LivenessReport, PartReport, ReadinessReport

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
