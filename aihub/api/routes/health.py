"""`/health`: each part and the whole."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from aihub import __version__
from aihub.api.deps import ServicesDep
from aihub.engines.base import PartHealth
from aihub.errors import UnavailableError
from aihub.schemas.health import HealthReport, PartReport

router = APIRouter(tags=["operation"])

OPTIONAL_PARTS = frozenset({"redis"})
"""Parts whose loss degrades the hub and never breaks a request."""


@router.get(
    "/health", response_model=HealthReport, responses={503: {"model": HealthReport, "description": "A required part is down."}}
)
async def get_health(services: ServicesDep) -> Response:
    """Say `ok`, `degraded` (200) or `down` (503), and why, for every part."""
    parts = await services.health()
    report = summarise(parts)
    if report.status != "down":
        return JSONResponse(report.model_dump())
    names = ", ".join(name for name, part in parts.items() if part.status == "down")
    error = UnavailableError(f"Parts that are down: {names}.")
    content = report.model_dump() | error.to_openai()
    return JSONResponse(content, status_code=error.status, headers={"Retry-After": str(error.retry_after_s)})


def summarise(parts: dict[str, PartHealth]) -> HealthReport:
    """Return the whole's state: down with a required part, degraded when any part is not ok."""
    is_down = any(part.status == "down" for name, part in parts.items() if name not in OPTIONAL_PARTS)
    is_degraded = any(part.status != "ok" for part in parts.values())
    return HealthReport(
        status="down" if is_down else "degraded" if is_degraded else "ok",
        version=__version__,
        parts={name: PartReport(status=part.status, reason=part.reason) for name, part in parts.items()},
    )
