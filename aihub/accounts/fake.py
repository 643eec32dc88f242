"""Accounts without a database, for tests."""

import hmac
from collections.abc import Mapping, Sequence

from aihub.accounts.accounts import describe
from aihub.accounts.api_keys import read_key
from aihub.accounts.schemas import AccountAnswer, AccountKey, AccountUser
from aihub.core.errors import AuthenticationError, StorageUnavailableError
from aihub.core.principal import Principal


class FakeAuthenticator:
    """Knows the keys it is given; with none, the hub is open.

    Args:
        keys: Principals by whole key.
        is_away: Whether keys cannot be checked now.
    """

    def __init__(self, keys: Mapping[str, Principal] | None = None, *, is_away: bool = False) -> None:
        self.keys = dict(keys or {})
        self.is_away = is_away

    async def authenticate(self, authorization: Sequence[str]) -> Principal:
        if not self.keys and not self.is_away:
            return Principal()
        key = read_key(authorization) if self.keys else None
        if self.is_away or key is None:
            raise StorageUnavailableError("The database does not answer, so keys cannot be checked. Try again in a few seconds.")
        found = [principal for text, principal in self.keys.items() if hmac.compare_digest(text, key.text)]
        if not found:
            raise AuthenticationError("The API key is unknown or was deleted. Ask an administrator of the hub for another.")
        return found[0]


class FakeAccounts:
    """Describes callers by their principals alone, as if each key were called like its user."""

    async def describe(self, principal: Principal) -> AccountAnswer:
        if principal.key_id is None or principal.user_id is None:
            return describe(principal, None)
        return describe(principal, None).model_copy(
            update={
                "user": AccountUser(id=principal.user_id, name=principal.user_id, is_service=False),
                "key": AccountKey(id=principal.key_id, name=principal.user_id, created_at=0, expires_at=None),
            }
        )
