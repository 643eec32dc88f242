"""What callers are told of themselves."""

from collections.abc import Set as AbstractSet
from dataclasses import asdict

from aihub.accounts.schemas import AccountAnswer, AccountKey, AccountLimits, AccountUser
from aihub.accounts.tables.api_keys import ApiKeyTable
from aihub.accounts.tables.records import ApiKeyRecord
from aihub.core.errors import AuthenticationError, NotFoundError
from aihub.core.postgres import Database
from aihub.core.principal import Principal


class Accounts:
    """Accounts in PostgreSQL; see `aihub.accounts.service.AccountService`."""

    def __init__(self, database: Database) -> None:
        self._keys = ApiKeyTable(database)

    async def describe(self, principal: Principal) -> AccountAnswer:
        if principal.key_id is None:
            return describe(principal, None)
        try:
            return describe(principal, await self._keys.get(principal.key_id))
        except NotFoundError as error:
            raise AuthenticationError("The API key was deleted. Ask an administrator of the hub for another.") from error


def describe(principal: Principal, key: ApiKeyRecord | None) -> AccountAnswer:
    """Return what a caller is told; without a key there is no user."""
    return AccountAnswer(
        tenant_id=principal.tenant_id,
        role=principal.role,
        user=key and AccountUser(id=key.user_id, name=key.user, is_service=key.is_service),
        key=key and AccountKey(id=key.id, name=key.name, created_at=key.created_at, expires_at=key.expires_at),
        routes=_sorted(principal.routes),
        models=_sorted(principal.models),
        vector_stores=_sorted(principal.vector_stores),
        limits=AccountLimits(**asdict(principal.limits)),
    )


def _sorted(names: AbstractSet[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
