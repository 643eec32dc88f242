"""Deletes conversations that nobody has used for long, beside requests and never while the hub is at rest."""

import asyncio
import logging
import time
from collections.abc import Callable

from aihub.conversations.storage import Storage
from aihub.core.errors import HubError

logger = logging.getLogger(__name__)

PAUSE_S = 3600.0
"""Between two passes of a process."""


class Retention:
    """Looks for old conversations at a request, at most once in `PAUSE_S`.

    Args:
        days: Without a message or a change; None keeps all.
        clock: Seconds that never go back.
    """

    def __init__(self, storage: Storage, days: int | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._days = days
        self._clock = clock
        self._next_s = 0.0
        self._pass: asyncio.Task[None] | None = None

    def note_request(self) -> None:
        """Begin a pass beside the request where one is due."""
        now_s = self._clock()
        if self._days is None or now_s < self._next_s or (self._pass is not None and not self._pass.done()):
            return
        self._next_s = now_s + PAUSE_S
        self._pass = asyncio.create_task(self._delete(self._days))

    async def settle(self) -> None:
        """Wait for the pass that goes on."""
        if self._pass is not None:
            await self._pass

    async def close(self) -> None:
        """End the pass that goes on; the next one does the rest."""
        if self._pass is not None:
            self._pass.cancel()
            await asyncio.gather(self._pass, return_exceptions=True)

    async def _delete(self, days: int) -> None:
        deleted = 0
        try:
            while count := await self._storage.delete_unused(days):
                deleted += count
        except HubError as error:
            logger.warning("Conversations older than %d days are deleted at a later request: %s", days, error.message)
        if deleted:
            logger.info("Deleted %d conversations in which nothing happened for %d days.", deleted, days)
