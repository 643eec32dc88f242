"""`/api/v1/system`: what requests used and cost, in groups or row by row, and figures of the machine."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep
from aihub.usage.schemas import Analytics, UsageFilters, UsageQuery
from aihub.usage.service import AnalyticsService, SystemService
from aihub.usage.system_schemas import SystemReport

router = APIRouter(route_class=StrictRoute, tags=["operation"])


async def get_analytics(request: Request) -> AnalyticsService:
    analytics: AnalyticsService = request.app.state.services.analytics
    return analytics


async def get_system(request: Request) -> SystemService:
    system: SystemService = request.app.state.services.system
    return system


AnalyticsDep = Annotated[AnalyticsService, Depends(get_analytics)]
SystemDep = Annotated[SystemService, Depends(get_system)]


@router.get("/api/v1/system/metrics")
async def read_system_metrics(system: SystemDep) -> SystemReport:
    """Processor, memory, disk and cards of the machine, each local model and each tenant, now. For administrators."""
    return await system.report()


@router.get("/api/v1/system/analytics", response_model=Analytics)
async def read_analytics(query: Annotated[UsageQuery, Query()], analytics: AnalyticsDep, principal: PrincipalDep) -> Response:
    """Requests, tokens, times, errors and costs of a period, by day, model, key and so on. Users see their own tenant's."""
    answer = await analytics.analytics(principal, query)
    return JSONResponse(answer.model_dump(mode="json", by_alias=True))


@router.get(
    "/api/v1/system/analytics/export",
    responses={200: {"description": "One line for each request.", "content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_usage(filters: Annotated[UsageFilters, Query()], analytics: AnalyticsDep, principal: PrincipalDep) -> Response:
    """The rows of a period as CSV, by tenant and time. A cell that a spreadsheet would run as a formula begins with `'`."""
    pieces = analytics.export(principal, filters)
    first = await anext(pieces)
    return StreamingResponse(
        _resumed(first, pieces),
        media_type="text/csv",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"', "Cache-Control": "no-store"},
    )


async def _resumed(first: str, pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    async with aclosing(pieces):
        yield first
        async for piece in pieces:
            yield piece
