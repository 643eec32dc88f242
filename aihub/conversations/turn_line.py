"""Who comes next in a conversation, within one process: in the order of arrival, and with few waiting."""

import asyncio
from collections import Counter

from aihub.core.errors import RateLimitError
from aihub.core.principal import Principal

MAX_WAITING = 4
"""Requests to one conversation that wait while another one is answered, in each process."""


def conversation_busy(reason: str) -> RateLimitError:
    """Return the error of a request that does not get its turn."""
    return RateLimitError(
        f"{reason} Send one request to a conversation at a time, or retry in a few seconds.",
        param="conversation_id",
        code="conversation_busy",
        retry_after_s=5,
    )


class TurnLine:
    """Lets one request at a time into each conversation."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._locks: dict[tuple[str, str, str], asyncio.Lock] = {}
        self._present: Counter[tuple[str, str, str]] = Counter()

    async def enter(self, principal: Principal, conversation_id: str) -> None:
        """Wait for those who came before.

        Raises:
            RateLimitError: Too many wait already (`conversation_busy`).
        """
        key = _key(principal, conversation_id)
        if self._present[key] > self._max_waiting:
            raise conversation_busy(f"{self._max_waiting} requests to this conversation wait already.")
        self._present[key] += 1
        try:
            await self._locks.setdefault(key, asyncio.Lock()).acquire()
        except BaseException:
            self._forget(key)
            raise

    def leave(self, principal: Principal, conversation_id: str) -> None:
        """Let the next one in."""
        key = _key(principal, conversation_id)
        self._locks[key].release()
        self._forget(key)

    def _forget(self, key: tuple[str, str, str]) -> None:
        self._present[key] -= 1
        if not self._present[key]:
            del self._present[key], self._locks[key]


def _key(principal: Principal, conversation_id: str) -> tuple[str, str, str]:
    # The owner belongs to it: a stranger who guesses an id holds nobody up.
    return principal.tenant_id, principal.owner_id, conversation_id
