"""`/train`: the models of a store. `/predict`: what they say, in milliseconds; answers are written without a second check.

How to begin is in docs/recommendations.md.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from aihub.core.errors import OverloadedError
from aihub.core.principal import Principal
from aihub.core.request_record import get_record
from aihub.core.schemas import ObjectId
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep
from aihub.http.streaming import until_disconnect
from aihub.recsys.schemas import (
    ModelType,
    NextItemsAnswer,
    NextItemsRequest,
    RecommendationsAnswer,
    RecommendationsRequest,
    RollbackAnswer,
    RollbackRequest,
    StoreStatus,
    TrainingAnswer,
    TrainingJob,
    TrainingJobAnswer,
    TrainNextItemRequest,
    TrainRecommendationRequest,
    TrainTrendingRequest,
    TrendingAnswer,
    TrendingRequest,
)
from aihub.recsys.service import PredictionService, RecsysService, WaitingPlaces

training_router = APIRouter(route_class=StrictRoute, tags=["recommendations"])

TRAINING_TIMEOUT_S = 3 * 3600.0

TrainBody = TrainRecommendationRequest | TrainTrendingRequest | TrainNextItemRequest


async def get_recsys(request: Request) -> RecsysService:
    recsys: RecsysService = request.app.state.services.recsys
    return recsys


RecsysDep = Annotated[RecsysService, Depends(get_recsys)]
StoreId = Annotated[int, Path(ge=0, lt=2**63)]


@training_router.post("/train/recommendation")
async def train_recommendation(
    request: Request, body: TrainRecommendationRequest, response: Response, recsys: RecsysDep, principal: PrincipalDep
) -> TrainingAnswer | TrainingJobAnswer:
    """Train matrix factors and NeuMF from a store's orders and carts; the better one on the store's held-out data is kept."""
    return await _train(request, response, recsys, principal, "recommendation", body)


@training_router.post("/train/trending")
async def train_trending(
    request: Request, body: TrainTrendingRequest, response: Response, recsys: RecsysDep, principal: PrincipalDep
) -> TrainingAnswer | TrainingJobAnswer:
    """Train the forecast of a store's sales per variant; kept only if it beats the plain baselines."""
    return await _train(request, response, recsys, principal, "trending", body)


@training_router.post("/train/next-item")
async def train_next_item(
    request: Request, body: TrainNextItemRequest, response: Response, recsys: RecsysDep, principal: PrincipalDep
) -> TrainingAnswer | TrainingJobAnswer:
    """Train what follows in a store's sequences of purchases."""
    return await _train(request, response, recsys, principal, "next_item", body)


@training_router.get("/train/jobs/{job_id}")
async def get_training_job(job_id: ObjectId, recsys: RecsysDep, principal: PrincipalDep) -> TrainingJob:
    """A training now."""
    return await recsys.job(principal, job_id)


@training_router.delete("/train/jobs/{job_id}")
async def cancel_training_job(job_id: ObjectId, recsys: RecsysDep, principal: PrincipalDep) -> TrainingJob:
    """Stop a training; it ends within seconds and keeps nothing."""
    return await recsys.cancel_job(principal, job_id)


@training_router.get("/train/status/{store_id}")
async def get_store_status(store_id: StoreId, recsys: RecsysDep, principal: PrincipalDep) -> StoreStatus:
    """Which models answer for a store, and its last trainings."""
    return await recsys.status(principal, store_id)


@training_router.post("/train/rollback")
async def roll_back_model(body: RollbackRequest, recsys: RecsysDep, principal: PrincipalDep) -> RollbackAnswer:
    """Serve the version that was served before."""
    return await recsys.rollback(principal, body.store_id, body.model_type)


async def _train(
    request: Request, response: Response, recsys: RecsysService, principal: Principal, model_type: ModelType, body: TrainBody
) -> TrainingAnswer | TrainingJobAnswer:
    if body.is_async:
        job = await recsys.start_training(principal, body.store_id, model_type, body.parameters())
        response.status_code = 202
        response.headers["Location"] = f"/train/jobs/{job.job_id}"
        return TrainingJobAnswer(job_id=job.job_id, store_id=job.store_id, model_type=model_type, status=job.status)
    places: WaitingPlaces = request.app.state.services.training_places
    # Before the training starts: one that nobody may wait for is better not begun.
    with places.take(_no_place()):
        job = await recsys.start_training(principal, body.store_id, model_type, body.parameters())
        work = recsys.finish_training(principal, job.job_id)
        return await until_disconnect(request, work, timeout_s=TRAINING_TIMEOUT_S)


def _no_place() -> OverloadedError:
    return OverloadedError(
        'Too many requests wait for trainings to end, and this one was not begun. Send `"async": true` and ask GET '
        "/train/jobs/{job_id}, or try again in a minute.",
        retry_after_s=60,
    )


predictions_router = APIRouter(route_class=StrictRoute, tags=["recommendations"])


async def get_predictions(request: Request) -> PredictionService:
    recsys: PredictionService = request.app.state.services.recsys
    return recsys


PredictionsDep = Annotated[PredictionService, Depends(get_predictions)]


@predictions_router.post("/predict/recommendations", response_model=RecommendationsAnswer)
async def predict_recommendations(body: RecommendationsRequest, recsys: PredictionsDep, principal: PrincipalDep) -> Response:
    """Items for a customer, best first. Unknown customers get popular items, marked `"fallback": "popular"`."""
    return _json(await recsys.recommendations(principal, body), "recommendation")


@predictions_router.post("/predict/trending", response_model=TrendingAnswer)
async def predict_trending(body: TrendingRequest, recsys: PredictionsDep, principal: PrincipalDep) -> Response:
    """Variants by what they will sell in the next period."""
    return _json(await recsys.trending(principal, body), "trending")


@predictions_router.post("/predict/next-items", response_model=NextItemsAnswer)
async def predict_next_items(body: NextItemsRequest, recsys: PredictionsDep, principal: PrincipalDep) -> Response:
    """Items that may follow a history, best first. Histories nothing is known of get popular items."""
    return _json(await recsys.next_items(principal, body), "next_item")


def _json(answer: RecommendationsAnswer | TrendingAnswer | NextItemsAnswer, model_type: ModelType) -> Response:
    get_record().note_model(f"{model_type}@{answer.model_version}")
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")
