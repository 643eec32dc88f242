"""`/models`: what the hub has, could have and is getting. Models that answer now are under `/v1/models`.

Events of a job are server-sent, with a comment when nothing happens so that proxies keep the line open.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from aihub.core.schemas import ObjectId, Success
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep
from aihub.http.streaming import EventStream, kept_alive, until_disconnect
from aihub.models.keys import ModelKey, parse_key
from aihub.models.schemas import (
    Configuration,
    ConfigureRequest,
    EnsureRequest,
    JobList,
    KeyRequest,
    PinRequest,
    ValidateRequest,
)
from aihub.models.service import RegistryService
from aihub.models.store.downloads.orders import Job, JobEvent
from aihub.models.store.reports import (
    CleanupReport,
    DetectionReport,
    RecommendationReport,
    RegistryHealth,
    RegistryStatus,
    UpdateReport,
    ValidationReport,
    VersionItem,
)

KEEP_ALIVE_S = 15.0


def job_frames(events: AsyncGenerator[JobEvent, None], *, keep_alive_s: float = KEEP_ALIVE_S) -> AsyncGenerator[str, None]:
    """Yield `event: progress` frames, one `event: end`, and `data: [DONE]`; closing it closes `events`."""
    return kept_alive(_frames(events), every_s=keep_alive_s)


async def _frames(events: AsyncGenerator[JobEvent, None]) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        async for event in events:
            yield f"event: {event.type}\nid: {event.job.sequence}\ndata: {event.job.model_dump_json()}\n\n"
    yield "data: [DONE]\n\n"


router = APIRouter(route_class=StrictRoute, prefix="/models", tags=["model registry"])

VALIDATE_TIMEOUT_S = 3600.0
WATCH_TIMEOUT_S = 24 * 3600.0

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events `progress` and, as the last one, `end`, each with the job; then `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


async def get_registry(request: Request) -> RegistryService:
    registry: RegistryService = request.app.state.services.registry
    return registry


RegistryDep = Annotated[RegistryService, Depends(get_registry)]


@router.get("/status")
async def get_status(registry: RegistryDep) -> Success[RegistryStatus]:
    """Every known model: is it here, what is it for, which required ones are missing."""
    return Success(data=await registry.status())


@router.get("/detect")
async def detect_models(registry: RegistryDep) -> Success[DetectionReport]:
    """Look at every source again: Ollama, speech folders, model folders, packages, services with a key."""
    return Success(data=await registry.detect())


@router.get("/recommended")
async def recommend_models(registry: RegistryDep) -> Success[RecommendationReport]:
    """Say which models of the catalogue fit this machine, and why others do not."""
    return Success(data=await registry.recommended())


@router.get("/health")
async def get_registry_health(registry: RegistryDep) -> Success[RegistryHealth]:
    return Success(data=await registry.health())


@router.post("/ensure", status_code=202)
async def ensure_models(registry: RegistryDep, body: EnsureRequest | None = None) -> Success[JobList]:
    """Start getting what is missing: the named models, or the required ones. No jobs means that all are here."""
    keys = _parse(body.models if body else None)
    return Success(data=JobList(jobs=await registry.ensure(keys)))


@router.post("/download/{key:path}", status_code=202)
async def download_model(key: str, response: Response, registry: RegistryDep) -> Success[Job]:
    """Start getting one model, such as `ollama:gemma2:9b` or `hf:Qwen/Qwen2.5-0.5B-Instruct`. Two starts are one job."""
    job = await registry.start_download(parse_key(key))
    response.headers["Location"] = f"{router.prefix}/jobs/{job.id}"
    return Success(data=job)


@router.get("/jobs")
async def list_jobs(registry: RegistryDep) -> Success[JobList]:
    """The last downloads, newest first."""
    return Success(data=JobList(jobs=await registry.jobs()))


@router.get("/jobs/{job_id}")
async def get_job(job_id: ObjectId, registry: RegistryDep) -> Success[Job]:
    return Success(data=await registry.job(job_id))


@router.get("/jobs/{job_id}/events", response_class=Response, responses=_EVENTS)
async def watch_job(job_id: ObjectId, registry: RegistryDep) -> Response:
    """The job now and at each change. Leaving does not stop the download."""
    await registry.job(job_id)  # an unknown one is a 404, not a stream
    frames = job_frames(registry.job_events(job_id))
    return EventStream(frames, timeout_s=WATCH_TIMEOUT_S, on_frame=lambda _: None)


@router.delete("/jobs/{job_id}")
async def cancel_job(job_id: ObjectId, registry: RegistryDep) -> Success[Job]:
    """Stop a download. What has arrived is kept, and the next start goes on with it."""
    return Success(data=await registry.cancel_job(job_id))


@router.post("/validate")
async def validate_models(
    request: Request, registry: RegistryDep, body: ValidateRequest | None = None
) -> Success[ValidationReport]:
    """Check files by their hashes, and unless `with_load` is false load and measure each model. Takes long."""
    wanted = body or ValidateRequest()
    work = registry.validate(_parse(wanted.models), with_load=wanted.with_load)
    return Success(data=await until_disconnect(request, work, timeout_s=VALIDATE_TIMEOUT_S))


@router.post("/cleanup")
async def clean_up(registry: RegistryDep, keep_recent: Annotated[int, Query(ge=0, le=1000)] = 3) -> Success[CleanupReport]:
    """Remove versions beyond the newest `keep_recent` of each model; never a pinned, loaded or required one."""
    return Success(data=await registry.cleanup(keep=keep_recent))


@router.get("/configuration")
async def get_configuration(registry: RegistryDep) -> Success[Configuration]:
    return Success(data=Configuration(await registry.configuration()))


@router.post("/configure")
async def configure(body: ConfigureRequest, registry: RegistryDep, principal: PrincipalDep) -> Success[Configuration]:
    """Change run-time settings for good. Unknown ones, and addresses the hub connects to, are refused."""
    return Success(data=Configuration(await registry.configure(body.root, actor=principal.tenant_id)))


@router.get("/versions/{key:path}")
async def list_versions(key: str, registry: RegistryDep) -> Success[list[VersionItem]]:
    return Success(data=await registry.versions(parse_key(key)))


@router.get("/update/{key:path}")
async def check_update(key: str, registry: RegistryDep) -> Success[UpdateReport]:
    """Ask where the model comes from whether there is a newer one; nothing is fetched."""
    return Success(data=await registry.check_update(parse_key(key)))


@router.post("/pin")
async def pin_version(body: PinRequest, registry: RegistryDep) -> Success[VersionItem]:
    """Keep one version in use, whatever is installed later."""
    return Success(data=await registry.pin(parse_key(body.key), body.digest))


@router.post("/unpin")
async def unpin_version(body: KeyRequest, registry: RegistryDep) -> Success[VersionItem]:
    return Success(data=await registry.unpin(parse_key(body.key)))


@router.post("/rollback")
async def roll_back(body: KeyRequest, registry: RegistryDep) -> Success[VersionItem]:
    """Return to the version that was in use before."""
    return Success(data=await registry.rollback(parse_key(body.key)))


def _parse(texts: list[str] | None) -> list[ModelKey] | None:
    return None if texts is None else [parse_key(text) for text in dict.fromkeys(texts)]
