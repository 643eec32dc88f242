"""What the edge needs of accounts: who sends a request, and what they are told of themselves."""

from collections.abc import Sequence
from typing import Protocol

from aihub.accounts.schemas import AccountAnswer
from aihub.core.principal import Principal


class Authenticator(Protocol):
    """Recognises callers by their API keys."""

    async def authenticate(self, authorization: Sequence[str]) -> Principal:
        """Return who sends a request.

        Args:
            authorization: All values of its Authorization header, as sent. An open hub needs none and minds none.

        Raises:
            AuthenticationError: No key, or none that counts (any more); the message says what to do and holds nothing of what
                was sent. Codes: `missing_api_key`, `invalid_api_key`, `expired_api_key`, `revoked_api_key`, `disabled_user`.
            StorageUnavailableError: PostgreSQL does not answer, and the key was not seen lately.
        """
        ...


class AccountService(Protocol):
    """Tells callers about themselves."""

    async def describe(self, principal: Principal) -> AccountAnswer:
        """Return the caller's tenant, user, key, scopes and limits; nothing secret.

        Raises:
            AuthenticationError: The key was deleted meanwhile.
            StorageUnavailableError: PostgreSQL does not answer.
        """
        ...
