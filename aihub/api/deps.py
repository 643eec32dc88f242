"""What routes ask for as parameters. All are coroutines: FastAPI would run plain functions in a thread."""

from typing import Annotated

from fastapi import Depends, Request

from aihub.api.services import Services
from aihub.security.principal import Principal

_DEFAULT_PRINCIPAL = Principal()


async def get_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def get_principal() -> Principal:
    """The caller. One tenant until accounts exist."""
    return _DEFAULT_PRINCIPAL


ServicesDep = Annotated[Services, Depends(get_services)]
PrincipalDep = Annotated[Principal, Depends(get_principal)]
