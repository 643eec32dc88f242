"""`/train`: the models of a store. How to begin is in docs/recommendations.md."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from aihub.api.deps import PrincipalDep
from aihub.api.recsys_service import RecsysService
from aihub.api.requests import StrictRoute
from aihub.api.services import WaitingPlaces
from aihub.api.streaming import until_disconnect
from aihub.errors import OverloadedError
from aihub.schemas.common import ObjectId
from aihub.schemas.recsys import (
    ModelType,
    RollbackAnswer,
    RollbackRequest,
    StoreStatus,
    TrainingAnswer,
    TrainingJob,
    TrainingJobAnswer,
    TrainNextItemRequest,
    TrainRecommendationRequest,
    TrainTrendingRequest,
)
from aihub.security.principal import Principal

router = APIRouter(route_class=StrictRoute, tags=["recommendations"])

TRAINING_TIMEOUT_S = 3 * 3600.0

TrainBody = TrainRecommendationRequest | TrainTrendingRequest | TrainNextItemRequest


async def get_recsys(request: Request) -> RecsysService:
    recsys: RecsysService = request.app.state.services.recsys
    return recsys


RecsysDep = Annotated[RecsysService, Depends(get_recsys)]
StoreId = Annotated[int, Path(ge=0, lt=2**63)]


@router.post("/train/recommendation")
async def train_recommendation(
    request: Request, body: TrainRecommendationRequest, response: Response, recsys: RecsysDep, principal: PrincipalDep
) -> TrainingAnswer | TrainingJobAnswer:
    """Train matrix factors and NeuMF from a store's orders and carts; the better one on the store's held-out data is kept."""
    return await _train(request, response, recsys, principal, "recommendation", body)


@router.post("/train/trending")
async def train_trending(
    request: Request, body: TrainTrendingRequest, response: Response, recsys: RecsysDep, principal: PrincipalDep
) -> TrainingAnswer | TrainingJobAnswer:
    """Train the forecast of a store's sales per variant; kept only if it beats the plain baselines."""
    return await _train(request, response, recsys, principal, "trending", body)


@router.post("/train/next-item")
async def train_next_item(
    request: Request, body: TrainNextItemRequest, response: Response, recsys: RecsysDep, principal: PrincipalDep
) -> TrainingAnswer | TrainingJobAnswer:
    """Train what follows in a store's sequences of purchases."""
    return await _train(request, response, recsys, principal, "next_item", body)


@router.get("/train/jobs/{job_id}")
async def get_training_job(job_id: ObjectId, recsys: RecsysDep, principal: PrincipalDep) -> TrainingJob:
    """A training now."""
    return await recsys.job(principal, job_id)


@router.delete("/train/jobs/{job_id}")
async def cancel_training_job(job_id: ObjectId, recsys: RecsysDep, principal: PrincipalDep) -> TrainingJob:
    """Stop a training; it ends within seconds and keeps nothing."""
    return await recsys.cancel_job(principal, job_id)


@router.get("/train/status/{store_id}")
async def get_store_status(store_id: StoreId, recsys: RecsysDep, principal: PrincipalDep) -> StoreStatus:
    """Which models answer for a store, and its last trainings."""
    return await recsys.status(principal, store_id)


@router.post("/train/rollback")
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
