"""How these commands reach the database, and how they fail: one line, and 2 for a wrong question, 1 for the rest."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer
from pydantic import BaseModel

from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.principal import Principal
from aihub.core.schemas import validate
from aihub.core.settings import Settings

if TYPE_CHECKING:
    from aihub.accounts.tables.api_keys import ApiKeyTable
    from aihub.accounts.tables.tenants import TenantTable
    from aihub.accounts.tables.users import UserTable
    from aihub.core.cache import Cache

FAILURE, USAGE = 1, 2
TIMEOUT_S = 10.0
Result = TypeVar("Result")
Request = TypeVar("Request", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class AccountTables:
    """What these commands work on."""

    tenants: "TenantTable"
    users: "UserTable"
    keys: "ApiKeyTable"


def ask(work: Callable[[AccountTables], Awaitable[Result]]) -> Result:
    """Run `work` on the migrated database of the hub, whether that runs or not; an error ends the command."""
    from aihub.core import migrate
    from aihub.core.embedded.stores import database_for

    try:
        with database_for(Settings()) as dsn:
            migrate.upgrade(dsn)
            return asyncio.run(_with_database(dsn, work))
    except HubError as error:
        fail(error)


def forget_in_redis(principal: Principal) -> bool:
    """Delete what the hub's Redis holds for an account alone; False when it does not answer."""
    from aihub.core.cache import Cache

    redis_url = _redis_url(Settings())
    return redis_url is None or asyncio.run(_forget(Cache(redis_url, timeout_s=TIMEOUT_S), principal))


def _redis_url(settings: Settings) -> str | None:
    """Return where the hub's Redis answers; None for an embedded one that does not run, which keeps nothing on the disk."""
    from aihub.core.embedded.stores import running_urls

    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    try:
        running = running_urls(settings.home_path)
    except HubError as error:
        fail(error)
    return None if running is None else running.redis_url


async def _forget(cache: "Cache", principal: Principal) -> bool:
    try:
        return await cache.delete_prefix(principal.redis_prefix)
    finally:
        await cache.close()


async def _with_database(dsn: str, work: Callable[[AccountTables], Awaitable[Result]]) -> Result:
    from aihub.accounts.tables.api_keys import ApiKeyTable
    from aihub.accounts.tables.tenants import TenantTable
    from aihub.accounts.tables.users import UserTable
    from aihub.core.postgres import Database

    database = Database(dsn, pool_size=1, timeout_s=TIMEOUT_S)
    await database.open()
    try:
        return await work(AccountTables(TenantTable(database), UserTable(database), ApiKeyTable(database)))
    finally:
        await database.close()


def checked(model: type[Request], **values: Any) -> Request:
    """Return a request that is as it must be; anything else ends the command."""
    try:
        return validate(model, values)
    except HubError as error:
        fail(error)


def fail(error: HubError) -> NoReturn:
    """Tell an error and end the command."""
    typer.echo(f"aihub: {error.message}", err=True)
    raise typer.Exit(USAGE if isinstance(error, InvalidRequestError) and error.status == 400 else FAILURE) from error


def print_json(value: Any) -> None:
    """Print a record, or a list of them, or plain values."""
    typer.echo(json.dumps(value, default=asdict, ensure_ascii=False, indent=2))
