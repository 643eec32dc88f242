"""`GET /api/v1/account`: who am I? Keys are made on the hub's machine only, by no route."""

from fastapi import APIRouter

from aihub.accounts.schemas import AccountAnswer
from aihub.http.bodies import StrictRoute
from aihub.http.services import PrincipalDep, ServicesDep

router = APIRouter(route_class=StrictRoute, prefix="/api/v1/account", tags=["accounts"])


@router.get("")
async def get_account(services: ServicesDep, principal: PrincipalDep) -> AccountAnswer:
    """Tenant, user, role, key, scopes and limits of the caller; no secrets."""
    return await services.accounts.describe(principal)
