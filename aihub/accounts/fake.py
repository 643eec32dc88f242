"""An authenticator without a database, for tests and examples."""

import hmac
from collections.abc import Mapping, Sequence

from aihub.accounts.api_keys import read_key
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
        key = read_key(authorization)
        if self.is_away:
            raise StorageUnavailableError("The database does not answer, so keys cannot be checked. Try again in a few seconds.")
        found = [principal for text, principal in self.keys.items() if hmac.compare_digest(text, key.text)]
        if not found:
            raise AuthenticationError("The API key is unknown or was deleted. Ask an administrator of the hub for another.")
        return found[0]
