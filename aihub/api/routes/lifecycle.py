"""`/api/v1/models`: local models in memory. What can be installed is under `/models`, what answers now under `/v1/models`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from aihub.api.deps import PrincipalDep
from aihub.api.lifecycle_service import LifecycleService
from aihub.api.requests import StrictRoute
from aihub.schemas.lifecycle import (
    CacheReport,
    GenerationConfigReport,
    GenerationConfigRequest,
    LifecycleReport,
    LoadRequest,
    ModelInfo,
    ModelReport,
    ModelReports,
    ModelRequest,
    UnloadRequest,
    lifecycle_report,
    model_report,
)
from aihub.schemas.registry import Success

router = APIRouter(route_class=StrictRoute, prefix="/api/v1/models", tags=["loaded models"])


async def get_lifecycle(request: Request) -> LifecycleService:
    lifecycle: LifecycleService = request.app.state.services.lifecycle
    return lifecycle


LifecycleDep = Annotated[LifecycleService, Depends(get_lifecycle)]
ModelId = Annotated[str, Query(min_length=1, max_length=256)]


@router.get("")
async def list_local_models(lifecycle: LifecycleDep, principal: PrincipalDep) -> Success[ModelReports]:
    """Every installed local model and its state."""
    status = await lifecycle.status(principal)
    return Success(data=ModelReports(models=[model_report(model) for model in status.models]))


@router.get("/status")
async def get_lifecycle_status(lifecycle: LifecycleDep, principal: PrincipalDep) -> Success[LifecycleReport]:
    """Models with memory, last use and speed; devices with who holds how much."""
    return Success(data=lifecycle_report(await lifecycle.status(principal)))


@router.get("/info")
async def get_model_info(lifecycle: LifecycleDep, principal: PrincipalDep, model_id: ModelId) -> Success[ModelInfo]:
    """Device, memory, quantisation, context and generation defaults of a loaded model."""
    return Success(data=await lifecycle.info(principal, model_id))


@router.post("/load")
async def load_model(body: LoadRequest, lifecycle: LifecycleDep, principal: PrincipalDep) -> Success[ModelReport]:
    """Load a model and answer once it is ready; idle models make room where needed."""
    model = await lifecycle.load(principal, body.model_id, force_reload=body.force_reload)
    return Success(data=model_report(model))


@router.post("/unload")
async def unload_model(body: UnloadRequest, lifecycle: LifecycleDep, principal: PrincipalDep) -> Success[ModelReport]:
    """Unload a model and answer once its memory is back; its next request wakes or loads it.

    On a GPU it sleeps, its weights in RAM, unless `level` is `full` or RAM is short. The answer's `state` says which.
    """
    return Success(data=model_report(await lifecycle.unload(principal, body.model_id, level=body.level)))


@router.post("/pin")
async def pin_model(body: ModelRequest, lifecycle: LifecycleDep, principal: PrincipalDep) -> Success[ModelReport]:
    """Never unload this model to make room or when idle, and load it at each start."""
    return Success(data=model_report(await lifecycle.pin(principal, body.model_id)))


@router.post("/unpin")
async def unpin_model(body: ModelRequest, lifecycle: LifecycleDep, principal: PrincipalDep) -> Success[ModelReport]:
    """Let this model be unloaded like any other."""
    return Success(data=model_report(await lifecycle.unpin(principal, body.model_id)))


@router.post("/generation_config")
async def update_generation_config(
    body: GenerationConfigRequest, lifecycle: LifecycleDep, principal: PrincipalDep
) -> Success[GenerationConfigReport]:
    """Change what requests to a loaded model get where they say nothing."""
    defaults = await lifecycle.update_generation_config(principal, body.model_id, body.generation_config)
    return Success(data=GenerationConfigReport(model_id=body.model_id, generation_config=defaults))


@router.post("/clear_cache")
async def clear_cache(body: ModelRequest, lifecycle: LifecycleDep, principal: PrincipalDep) -> Success[CacheReport]:
    """Forget the prompts a loaded model keeps to answer similar ones faster."""
    is_cleared = await lifecycle.clear_cache(principal, body.model_id)
    return Success(data=CacheReport(model_id=body.model_id, cleared=is_cleared))
