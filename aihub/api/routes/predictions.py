"""`/predict`: recommendations of a store, in milliseconds; the wire models are written as they are, without a second check."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel

from aihub.api.deps import PrincipalDep
from aihub.api.recsys_service import PredictionService
from aihub.api.requests import StrictRoute
from aihub.schemas.recsys import (
    NextItemsAnswer,
    NextItemsRequest,
    RecommendationsAnswer,
    RecommendationsRequest,
    TrendingAnswer,
    TrendingRequest,
)

router = APIRouter(route_class=StrictRoute, tags=["recommendations"])


async def get_predictions(request: Request) -> PredictionService:
    recsys: PredictionService = request.app.state.services.recsys
    return recsys


PredictionsDep = Annotated[PredictionService, Depends(get_predictions)]


@router.post("/predict/recommendations", response_model=RecommendationsAnswer)
async def predict_recommendations(body: RecommendationsRequest, recsys: PredictionsDep, principal: PrincipalDep) -> Response:
    """Items for a customer, best first. Unknown customers get popular items, marked `"fallback": "popular"`."""
    return _json(await recsys.recommendations(principal, body))


@router.post("/predict/trending", response_model=TrendingAnswer)
async def predict_trending(body: TrendingRequest, recsys: PredictionsDep, principal: PrincipalDep) -> Response:
    """Variants by what they will sell in the next period."""
    return _json(await recsys.trending(principal, body))


@router.post("/predict/next-items", response_model=NextItemsAnswer)
async def predict_next_items(body: NextItemsRequest, recsys: PredictionsDep, principal: PrincipalDep) -> Response:
    """Items that may follow a history, best first. Histories nothing is known of get popular items."""
    return _json(await recsys.next_items(principal, body))


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
