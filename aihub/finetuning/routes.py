"""`/v1/fine_tuning/jobs`, as OpenAI's API has it, and the same jobs in the earlier service's shape: `/api/v1/training/jobs`.

Events are also server-sent, with a comment when nothing happens.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.datastructures import QueryParams

from aihub.core.errors import InvalidRequestError
from aihub.core.schemas import ObjectId, Page, Success
from aihub.core.sse import DONE
from aihub.finetuning.requests import from_earlier, from_openai
from aihub.finetuning.schemas import FineTuningCheckpoint, FineTuningEvent, FineTuningJob, JobCreate
from aihub.finetuning.serializers import training_job, training_status
from aihub.finetuning.service import FineTuningService
from aihub.finetuning.training_schemas import TrainingJob, TrainingJobCreate, TrainingJobs, TrainingProgress, TrainingStatus
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep
from aihub.http.streaming import EventStream, kept_alive, until_disconnect

router = APIRouter(route_class=StrictRoute, prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

CREATE_TIMEOUT_S = 840.0
CREATE_ADVICE = "The data take too long to check, or too many are being checked. Send fewer rows, or try again later."
"""Below the proxy's limit. A file of half a gigabyte is copied and read to its end meanwhile."""
WATCH_TIMEOUT_S = 24 * 3600.0
KEEP_ALIVE_S = 15.0
MAX_PAIRS = 16

_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of events, newest first; or, as `text/event-stream`, events from the first one to the job's end, "
        "then `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


async def get_fine_tuning(request: Request) -> FineTuningService:
    service: FineTuningService = request.app.state.services.finetuning
    return service


FineTuningDep = Annotated[FineTuningService, Depends(get_fine_tuning)]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same key with the same body gives the same job, however often it is sent.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=100)]
LongLimit = Annotated[int, Query(ge=1, le=1000)]


@router.post("")
async def create_job(
    request: Request, body: JobCreate, jobs: FineTuningDep, principal: PrincipalDep, key: IdempotencyKey = None
) -> FineTuningJob:
    """Check the data and queue a job; the answer comes once every row was read. A client that leaves before leaves nothing."""
    work = jobs.create(principal, from_openai(body), key)
    return await until_disconnect(request, work, timeout_s=CREATE_TIMEOUT_S, advice=CREATE_ADVICE)


@router.get("")
async def list_jobs(
    request: Request, jobs: FineTuningDep, principal: PrincipalDep, limit: Limit = 20, after: ObjectId | None = None
) -> Page[FineTuningJob]:
    """Newest first. `metadata[key]=value` keeps those that have the pair, `metadata=null` those without metadata."""
    metadata = _metadata(request.query_params)
    without = request.query_params.get("metadata") == "null"
    return await jobs.list(principal, limit=limit, after=after, metadata=metadata, without_metadata=without)


@router.get("/{job_id}")
async def get_job(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> FineTuningJob:
    return await jobs.get(principal, job_id)


@router.post("/{job_id}/cancel")
async def cancel_job(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> FineTuningJob:
    """End a job and forget its checkpoints. One that runs ends within seconds."""
    return await jobs.cancel(principal, job_id)


@router.post("/{job_id}/pause")
async def pause_job(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> FineTuningJob:
    """Stop a job until it is resumed. One that runs writes a checkpoint first."""
    return await jobs.pause(principal, job_id)


@router.post("/{job_id}/resume")
async def resume_job(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> FineTuningJob:
    """Queue a job again that is paused or interrupted, or failed with a checkpoint, which it goes on from."""
    return await jobs.resume(principal, job_id)


@router.get("/{job_id}/events", response_model=Page[FineTuningEvent], responses=_EVENTS)
async def list_events(
    request: Request,
    job_id: ObjectId,
    jobs: FineTuningDep,
    principal: PrincipalDep,
    limit: LongLimit = 20,
    after: ObjectId | None = None,
    stream: bool = False,
    last_event_id: Annotated[ObjectId | None, Header(alias="Last-Event-ID")] = None,
) -> Page[FineTuningEvent] | Response:
    """What happened to a job, newest first; or, with `stream=true`, oldest first as it comes. Leaving does not stop the job."""
    if not stream and "text/event-stream" not in request.headers.get("accept", ""):
        return await jobs.events(principal, job_id, limit=limit, after=after)
    seen = last_event_id or after
    # An unknown job or event is an error, not a stream.
    await jobs.events(principal, job_id, limit=1, after=seen)
    frames = event_frames(jobs.event_stream(principal, job_id, seen))
    return EventStream(kept_alive(frames, every_s=KEEP_ALIVE_S), timeout_s=WATCH_TIMEOUT_S, on_frame=lambda _: None)


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(
    job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep, limit: LongLimit = 10, after: ObjectId | None = None
) -> Page[FineTuningCheckpoint]:
    """Steps that a job can be resumed from, newest first."""
    return await jobs.checkpoints(principal, job_id, limit=limit, after=after)


training_router = APIRouter(route_class=StrictRoute, prefix="/api/v1/training/jobs", tags=["fine-tuning"])

MAX_POINTS = 1000


@training_router.post("")
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
    job = training_job(await until_disconnect(request, work, timeout_s=CREATE_TIMEOUT_S, advice=CREATE_ADVICE))
    response.headers["Location"] = f"{training_router.prefix}/{job.job_id}"
    return Success(data=job)


@training_router.get("")
async def list_training_jobs(
    jobs: FineTuningDep, principal: PrincipalDep, limit: Limit = 20, after: ObjectId | None = None
) -> Success[TrainingJobs]:
    """Newest first."""
    page = await jobs.list(principal, limit=limit, after=after)
    return Success(data=TrainingJobs(jobs=[training_job(job) for job in page.data], has_more=page.has_more))


@training_router.get("/{job_id}")
async def get_training_job(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> Success[TrainingJob]:
    return Success(data=training_job(await jobs.get(principal, job_id)))


@training_router.get("/{job_id}/status")
async def get_training_status(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> Success[TrainingStatus]:
    """How far a job is, and its place in the queue."""
    return Success(data=training_status(await jobs.get(principal, job_id)))


@training_router.get("/{job_id}/progress")
async def get_training_progress(
    job_id: ObjectId,
    jobs: FineTuningDep,
    principal: PrincipalDep,
    limit: Annotated[int, Query(ge=2, le=MAX_POINTS)] = MAX_POINTS,
) -> Success[TrainingProgress]:
    """Loss and speed by step; of more than `limit` steps, evenly thinned ones."""
    points = await jobs.progress(principal, job_id, most=limit)
    return Success(data=TrainingProgress(job_id=job_id, points=list(points)))


@training_router.delete("/{job_id}")
async def cancel_training_job(job_id: ObjectId, jobs: FineTuningDep, principal: PrincipalDep) -> Success[TrainingJob]:
    """End a job and forget its checkpoints. One that runs ends within seconds."""
    return Success(data=training_job(await jobs.cancel(principal, job_id)))


async def event_frames(events: AsyncGenerator[FineTuningEvent, None]) -> AsyncGenerator[str, None]:
    """Yield a frame for each event, then `data: [DONE]`; closing it closes `events`."""
    async with aclosing(events):
        async for event in events:
            yield f"id: {event.id}\ndata: {event.model_dump_json()}\n\n"
    yield DONE


def _metadata(query: QueryParams) -> dict[str, str] | None:
    pairs = {match[1]: value for key, value in query.multi_items() if (match := _METADATA.fullmatch(key))}
    if len(pairs) > MAX_PAIRS:
        raise InvalidRequestError(f"'metadata' must hold at most {MAX_PAIRS} pairs.", param="metadata", code="invalid_value")
    return pairs or None
