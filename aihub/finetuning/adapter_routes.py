"""`/api/v1/adapters`: versions of trained adapters; `DELETE /v1/models/{id}` as OpenAI's clients delete a fine-tuned model."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from aihub.core.errors import NotFoundError
from aihub.core.principal import Principal
from aihub.core.schemas import DeletedObject, ModelName, Success
from aihub.finetuning.adapter_ids import find_adapter_id
from aihub.finetuning.adapter_schemas import (
    AdapterReport,
    AdapterReports,
    AdapterRequest,
    MergeReport,
    PromoteRequest,
    RollbackReport,
)
from aihub.finetuning.service import AdapterService
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep, ServicesDep

router = APIRouter(route_class=StrictRoute, prefix="/api/v1/adapters", tags=["fine-tuning"])
fine_tuned_models_router = APIRouter(route_class=StrictRoute, prefix="/v1/models", tags=["models"])


async def get_adapters(request: Request) -> AdapterService:
    adapters: AdapterService = request.app.state.services.adapters
    return adapters


AdaptersDep = Annotated[AdapterService, Depends(get_adapters)]


@router.get("")
async def list_adapters(adapters: AdaptersDep, principal: PrincipalDep) -> Success[AdapterReports]:
    """Every version with what it was made from and how it compares."""
    return Success(data=AdapterReports(adapters=list(await adapters.list(principal))))


@router.get("/{adapter_id:path}")
async def get_adapter(adapter_id: ModelName, adapters: AdaptersDep, principal: PrincipalDep) -> Success[AdapterReport]:
    """One version, or the promoted one of a name without a version."""
    return Success(data=await adapters.get(principal, adapter_id))


@router.post("/promote")
async def promote_adapter(body: PromoteRequest, adapters: AdaptersDep, principal: PrincipalDep) -> Success[AdapterReport]:
    """Let requests for the name without a version be answered by this one; refused (409) when it is worse."""
    return Success(data=await adapters.promote(principal, body.adapter_id, force=body.force))


@router.post("/rollback")
async def roll_back_adapter(body: AdapterRequest, adapters: AdaptersDep, principal: PrincipalDep) -> Success[RollbackReport]:
    """Let requests for the name be answered by the version that did before; by none when there was no other."""
    return Success(data=await adapters.rollback(principal, body.adapter_id))


@router.post("/merge")
async def merge_adapter(body: AdapterRequest, adapters: AdaptersDep, principal: PrincipalDep) -> Success[MergeReport]:
    """Write base and adapter as one model of its own; answers when that can be asked, after seconds to minutes."""
    return Success(data=await adapters.merge(principal, body.adapter_id))


@router.delete("/{adapter_id:path}")
async def delete_adapter(adapter_id: ModelName, adapters: AdaptersDep, principal: PrincipalDep) -> Success[DeletedObject]:
    """Delete one version for good; refused (409) for the promoted one."""
    await adapters.delete(principal, adapter_id)
    return Success(data=DeletedObject(id=adapter_id, object="adapter"))


@fine_tuned_models_router.delete("/{model_id:path}")
async def delete_fine_tuned_model(
    model_id: ModelName, services: ServicesDep, adapters: AdaptersDep, principal: PrincipalDep
) -> DeletedObject:
    """Delete a fine-tuned model (`base:name@v1`). Other models are not deleted here."""
    found = find_adapter_id(model_id)
    if found is None or (found.version is None and await _is_model(services, principal, model_id)):
        raise NotFoundError(
            f"There is no fine-tuned model {model_id!r}, and only those (base:name@v1) are deleted here. Folders of "
            "installed models are the operator's to remove.",
            param="model",
            code="model_not_found",
        )
    await adapters.delete(principal, model_id)
    return DeletedObject(id=model_id, object="model")


async def _is_model(services: ServicesDep, principal: Principal, model_id: str) -> bool:
    """Whether a model that is no adapter has a name that could be an alias, as `llama2:7b`."""
    known = [str(model["id"]) for model in await services.chat.models(principal)]
    return model_id in known and not any(name.startswith(f"{model_id}@v") for name in known)
