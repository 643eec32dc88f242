"""Recognises callers by keys in PostgreSQL."""

import hmac
import time
from collections.abc import Callable, Sequence

from aihub.accounts.api_keys import PREFIX_LENGTH, SECRET_LENGTH, ApiKey, read_key
from aihub.accounts.key_uses import KeyUses
from aihub.accounts.recent_keys import RecentKeys
from aihub.accounts.tables.recognition import KnownKey, RecognitionTable
from aihub.core.errors import AuthenticationError
from aihub.core.postgres import Database
from aihub.core.principal import Principal

_NOBODY = ApiKey("0" * PREFIX_LENGTH, f"aihub_{'0' * PREFIX_LENGTH}_{'0' * SECRET_LENGTH}")
_NO_DIGEST = bytes(32)
_EVERYBODY = Principal()


class KeyAuthenticator:
    """The keys of the tables, each remembered for seconds.

    Args:
        database: May be away for a while.
        is_local: Whether only this machine reaches the hub, so that it may be open until the first key is made.
        clock: Seconds that never go back.
    """

    def __init__(self, database: Database, *, is_local: bool, clock: Callable[[], float] = time.monotonic) -> None:
        table = RecognitionTable(database)
        self._recent = RecentKeys(table, can_be_open=is_local, clock=clock)
        self._uses = KeyUses(table, clock=clock)

    async def authenticate(self, authorization: Sequence[str]) -> Principal:
        """Return who sends a request; see `aihub.accounts.service.Authenticator`."""
        refusal: AuthenticationError | None = None
        try:
            key = read_key(authorization)
        except AuthenticationError as error:
            key, refusal = _NOBODY, error
        if await self._recent.is_open():
            return _EVERYBODY
        found = await self._recent.find(key.prefix) if refusal is None else None
        # Compared whatever is known, so that time tells nothing.
        is_same = hmac.compare_digest(key.digest(), found[0].sha256 if found is not None else _NO_DIGEST)
        if refusal is not None:
            raise refusal
        if found is None or not is_same:
            raise AuthenticationError("The API key is unknown or was deleted. Ask an administrator of the hub for another.")
        check_key(*found)
        self._uses.note(key.key_id)
        return found[0].principal

    async def close(self) -> None:
        """Stop asking, and write what is left to write."""
        await self._recent.close()
        await self._uses.close()


def check_key(key: KnownKey, age_s: float) -> None:
    """Refuse a key that counts no more.

    Args:
        age_s: Since it was read.

    Raises:
        AuthenticationError: It was revoked, has expired, or its user is disabled.
    """
    if key.is_revoked:
        raise AuthenticationError("The API key was revoked. Ask an administrator of the hub for another.", code="revoked_api_key")
    if key.expires_in_s is not None and age_s >= key.expires_in_s:
        raise AuthenticationError("The API key has expired. Ask an administrator of the hub for another.", code="expired_api_key")
    if key.is_disabled:
        raise AuthenticationError(
            "The user of the API key is disabled. Ask an administrator of the hub to enable them again.", code="disabled_user"
        )
