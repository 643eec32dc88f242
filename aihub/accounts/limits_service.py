"""Limits of a key as the edge and pipelines see them. Like all services: principal first, `HubError` only."""

from typing import Protocol

from aihub.core.principal import Principal


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
