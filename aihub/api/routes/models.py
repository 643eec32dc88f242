"""`/v1/models`: what can be asked now."""

from fastapi import APIRouter

from aihub.api.deps import PrincipalDep, ServicesDep
from aihub.api.requests import StrictRoute
from aihub.api.services import Services
from aihub.errors import NotFoundError, UnavailableError
from aihub.schemas.models import ModelList, ModelObject
from aihub.security.principal import Principal

router = APIRouter(route_class=StrictRoute, prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(services: ServicesDep, principal: PrincipalDep) -> ModelList:
    """Every chat and embedding model that answers now; one that is loading or down is left out."""
    return ModelList(data=await _models(services, principal))


@router.get("/{model_id:path}")
async def get_model(model_id: str, services: ServicesDep, principal: PrincipalDep) -> ModelObject:
    for model in await _models(services, principal):
        if model.id == model_id:
            return model
    raise NotFoundError(
        f"The model {model_id[:256]!r} does not exist. GET /v1/models lists what does.", param="model", code="model_not_found"
    )


async def _models(services: Services, principal: Principal) -> list[ModelObject]:
    models = [ModelObject.model_validate(model) for model in await services.chat.models(principal)]
    try:
        card = await services.embedder.card()
    except UnavailableError:
        return models  # /health says why.
    return [*models, ModelObject(id=card.model_id, created=card.created, owned_by="aihub")]
