"""`/v1/models`: what can be asked now. `/api/v1/models`: local models in memory. What can be installed is under `/models`."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from aihub.core.errors import EngineTimeoutError, NotFoundError, UnavailableError
from aihub.core.principal import Principal
from aihub.core.schemas import Success
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep, Services, ServicesDep
from aihub.models.schemas import (
    CacheReport,
    GenerationConfigReport,
    GenerationConfigRequest,
    LifecycleReport,
    LoadRequest,
    ModelInfo,
    ModelList,
    ModelObject,
    ModelReport,
    ModelReports,
    ModelRequest,
    UnloadRequest,
    lifecycle_report,
    model_report,
)
from aihub.models.service import LifecycleService

SPEECH_TIMEOUT_S = 1.0
"""A busy speech service must not hold up who looks for a chat model."""

models_router = APIRouter(route_class=StrictRoute, prefix="/v1/models", tags=["models"])


@models_router.get("")
async def list_models(services: ServicesDep, principal: PrincipalDep) -> ModelList:
    """Every chat, embedding and speech model that answers now; one that is loading or down is left out."""
    return ModelList(data=await _models(services, principal))


@models_router.get("/{model_id:path}")
async def get_model(model_id: str, services: ServicesDep, principal: PrincipalDep) -> ModelObject:
    for model in await _models(services, principal):
        if model.id == model_id:
            return model
    raise NotFoundError(
        f"The model {model_id[:256]!r} does not exist. GET /v1/models lists what does.", param="model", code="model_not_found"
    )


async def _models(services: Services, principal: Principal) -> list[ModelObject]:
    chat, embedding, speech = await asyncio.gather(
        services.chat.models(principal), _embedding_models(services), _speech_models(services)
    )
    models = [*(ModelObject.model_validate(model) for model in chat), *embedding, *speech]
    return [model for model in models if principal.may_use_model(model.id)]


async def _embedding_models(services: Services) -> list[ModelObject]:
    try:
        model_info = await services.embedder.model_info()
    except UnavailableError:
        return []  # /health says why.
    return [ModelObject(id=model_info.model_id, created=model_info.created, owned_by="aihub")]


async def _speech_models(services: Services) -> list[ModelObject]:
    try:
        async with asyncio.timeout(SPEECH_TIMEOUT_S):
            models = await services.speech.models()
    except (TimeoutError, EngineTimeoutError, UnavailableError):
        return []  # The other models are listed all the same; /health says why.
    return [ModelObject(id=model.model_id, created=model.created, owned_by="vosk") for model in models]


loaded_models_router = APIRouter(route_class=StrictRoute, prefix="/api/v1/models", tags=["loaded models"])


async def get_lifecycle(request: Request) -> LifecycleService:
    lifecycle: LifecycleService = request.app.state.services.lifecycle
    return lifecycle


LifecycleDep = Annotated[LifecycleService, Depends(get_lifecycle)]
ModelId = Annotated[str, Query(min_length=1, max_length=256)]


@loaded_models_router.get("")
async def list_local_models(lifecycle: LifecycleDep) -> Success[ModelReports]:
    """Every installed local model and its state."""
    status = await lifecycle.status()
    return Success(data=ModelReports(models=[model_report(model) for model in status.models]))


@loaded_models_router.get("/status")
async def get_lifecycle_status(lifecycle: LifecycleDep) -> Success[LifecycleReport]:
    """Models with memory, last use and speed; devices with who holds how much."""
    return Success(data=lifecycle_report(await lifecycle.status()))


@loaded_models_router.get("/info")
async def get_model_info(lifecycle: LifecycleDep, model_id: ModelId) -> Success[ModelInfo]:
    """Device, memory, quantisation, context and generation defaults of a loaded model."""
    return Success(data=await lifecycle.info(model_id))


@loaded_models_router.post("/load")
async def load_model(body: LoadRequest, lifecycle: LifecycleDep) -> Success[ModelReport]:
    """Load a model and answer once it is ready; idle models make room where needed."""
    model = await lifecycle.load(body.model_id, force_reload=body.force_reload)
    return Success(data=model_report(model))


@loaded_models_router.post("/unload")
async def unload_model(body: UnloadRequest, lifecycle: LifecycleDep) -> Success[ModelReport]:
    """Unload a model and answer once its memory is back; its next request wakes or loads it.

    On a GPU it sleeps, its weights in RAM, unless `level` is `full` or RAM is short. The answer's `state` says which.
    """
    return Success(data=model_report(await lifecycle.unload(body.model_id, level=body.level)))


@loaded_models_router.post("/pin")
async def pin_model(body: ModelRequest, lifecycle: LifecycleDep) -> Success[ModelReport]:
    """Never unload this model to make room or when idle, and load it at each start."""
    return Success(data=model_report(await lifecycle.pin(body.model_id)))


@loaded_models_router.post("/unpin")
async def unpin_model(body: ModelRequest, lifecycle: LifecycleDep) -> Success[ModelReport]:
    """Let this model be unloaded like any other."""
    return Success(data=model_report(await lifecycle.unpin(body.model_id)))


@loaded_models_router.post("/generation_config")
async def update_generation_config(body: GenerationConfigRequest, lifecycle: LifecycleDep) -> Success[GenerationConfigReport]:
    """Change what requests to a loaded model get where they say nothing."""
    defaults = await lifecycle.update_generation_config(body.model_id, body.generation_config)
    return Success(data=GenerationConfigReport(model_id=body.model_id, generation_config=defaults))


@loaded_models_router.post("/clear_cache")
async def clear_cache(body: ModelRequest, lifecycle: LifecycleDep) -> Success[CacheReport]:
    """Forget the prompts a loaded model keeps to answer similar ones faster."""
    is_cleared = await lifecycle.clear_cache(body.model_id)
    return Success(data=CacheReport(model_id=body.model_id, cleared=is_cleared))
