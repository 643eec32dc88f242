"""`/api/v1/training/jobs`: the same jobs for clients of the service before the hub, in its envelope."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from aihub.core.schemas import ObjectId, Success
from aihub.finetuning.requests import from_earlier
from aihub.finetuning.routes import CREATE_TIMEOUT_S, FineTuningDep, IdempotencyKey, Limit
from aihub.finetuning.serializers import training_job, training_status
from aihub.finetuning.training_schemas import TrainingJob, TrainingJobCreate, TrainingJobs, TrainingProgress, TrainingStatus
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep
from aihub.http.streaming import until_disconnect

router = APIRouter(route_class=StrictRoute, prefix="/api/v1/training/jobs", tags=["fine-tuning"])

MAX_POINTS = 1000


@router.post("")
async def create_training_job(
    request: Request,
    response: Response,
    body: TrainingJobCreate,
    jobs: FineTuningDep,
    principal: PrincipalDep,
    key: IdempotencyKey = None,
) -> Success[TrainingJob]:
    """Check the data and queue a job, as POST /v1/fine_tuning/jobs does."""
    work = jobs.create(principal, from_earlier(body), key)
    job = training_job(await until_disconnect(request, work, timeout_s=CREATE_TIMEOUT_S))
    response.headers["Location"] = f"{router.prefix}/{job.job_id}"
    return Success(data=job)


@router.get("")
async def list_training_jobs(
    jobs: FineTuningDep, principal: PrincipalDep, limit: Limit = 20, after: ObjectId | None = None
) -> Success[TrainingJobs]:
    """Newest first."""
    page = await jobs.list(principal, limit=limit, after=after)
    return Success(data=TrainingJobs(jobs=[training_job(job) for job in page.data], has_more=page.has_more))


@router.get("/{job_id}")
async def get_training_job(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> Success[TrainingJob]:
    return Success(data=training_job(await jobs.get(principal, job_id)))


@router.get("/{job_id}/status")
async def get_training_status(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> Success[TrainingStatus]:
    """How far a job is, and its place in the queue."""
    return Success(data=training_status(await jobs.get(principal, job_id)))


@router.get("/{job_id}/progress")
async def get_training_progress(
    job_id: ObjectId,
    jobs: FineTuningDep,
    principal: PrincipalDep,
    limit: Annotated[int, Query(ge=2, le=MAX_POINTS)] = MAX_POINTS,
) -> Success[TrainingProgress]:
    """Loss and speed by step; of more than `limit` steps, evenly thinned ones."""
    points = await jobs.progress(principal, job_id, most=limit)
    return Success(data=TrainingProgress(job_id=job_id, points=list(points)))


@router.delete("/{job_id}")
async def cancel_training_job(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> Success[TrainingJob]:
    """End a job and forget its checkpoints. One that runs ends within seconds."""
    return Success(data=training_job(await jobs.cancel(principal, job_id)))
