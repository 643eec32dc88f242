"""What the edge and pipelines need of accounts: who sends a request, what they are told of themselves, how much they may do."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
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


class Reservation(Protocol):
    """What one request has taken of its key's limits."""

    @property
    def tokens(self) -> int:
        """Tokens reserved; 0 where none are limited."""
        ...

    def settle(self, used_tokens: int) -> None:
        """Count what was used in place of what was reserved, and give a stream's place back; once, and without waiting."""
        ...


class RateLimiter(Protocol):
    """Counts what keys use. Callers without a key have no limits, and neither does what a key has none for."""

    async def admit(self, principal: Principal) -> None:
        """Count a request; the answer gets `x-ratelimit-*` headers.

        Raises:
            RateLimitError: The key has had its requests of this minute (`rate_limit_exceeded`); `retry_after_s` says when the
                next is free.
        """
        ...

    async def reserve(
        self, principal: Principal, *, tokens: int = 0, most_tokens: int = 0, is_stream: bool = False
    ) -> Reservation:
        """Take tokens and a place for a stream. Whoever gets a reservation settles it, also when cancelled.

        Args:
            tokens: What the request needs at least: its prompt, and the answer it asks for.
            most_tokens: What it may come to where it does not say how long an answer it wants. The reservation is so large, or as
                large as the key's limits where that is smaller.
            is_stream: Whether it holds one of the key's streams until it is settled.

        Raises:
            RateLimitError: A minute's tokens or all streams are taken (`rate_limit_exceeded`), or the day's tokens
                (`insufficient_quota`).
        """
        ...

    def limits_tokens(self, principal: Principal) -> bool:
        """Whether tokens of this caller are counted at all, so that nobody estimates them for nothing."""
        ...


@dataclass(slots=True)
class TokenUse:
    """What a request has used of its reservation; set before the block of `reserved` ends."""

    tokens: int = 0


@asynccontextmanager
async def reserved(
    limiter: RateLimiter, principal: Principal, *, tokens: int = 0, is_stream: bool = False
) -> AsyncIterator[TokenUse]:
    """Hold a reservation while the block runs, and settle it by the use that is noted; nothing noted is nothing used.

    Raises:
        RateLimitError: As `RateLimiter.reserve`.
    """
    reservation = await limiter.reserve(principal, tokens=tokens, is_stream=is_stream)
    use = TokenUse()
    try:
        yield use
    finally:
        reservation.settle(use.tokens)
