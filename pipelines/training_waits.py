"""Waiting for trainings to end: one look at all of them, however many wait."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from aihub.errors import HubError

logger = logging.getLogger(__name__)

PERIOD_S = 2.0
OUTAGE_PATIENCE_S = 30.0
"""Those who wait are told when nobody could be asked for so long; a restart of the recommender or PostgreSQL is shorter."""

Key = tuple[str, str]
"""Tenant and training."""


class TrainingWaits:
    """One task looks every `PERIOD_S` as long as somebody waits; nobody who waits holds anything else meanwhile.

    Args:
        find_ended: Returns which of some trainings have ended or do not exist.
    """

    def __init__(self, find_ended: Callable[[Collection[Key]], Awaitable[Collection[Key]]]) -> None:
        self._find_ended = find_ended
        self._waiting: dict[Key, set[asyncio.Future[None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def wait(self, tenant: str, training_id: str) -> None:
        """Return when the training has ended; cancelling ends the waiting at once.

        Raises:
            HubError: What kept the trainings from being looked at for `OUTAGE_PATIENCE_S`.
        """
        key = (tenant, training_id)
        end = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(end)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_regularly())
        try:
            await end
        finally:
            waiting = self._waiting.get(key, set())
            waiting.discard(end)
            if not waiting:
                self._waiting.pop(key, None)

    async def close(self) -> None:
        """Stop looking; those who still wait are cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for end in self._ends(list(self._waiting)):
            end.cancel()

    async def _look_regularly(self) -> None:
        answered_s = asyncio.get_running_loop().time()
        while self._waiting:
            try:
                ended = await self._find_ended(list(self._waiting))
            except HubError as error:
                if asyncio.get_running_loop().time() - answered_s > OUTAGE_PATIENCE_S:
                    self._fail(error)
                    return
                logger.warning("Trainings that are waited for are looked at later: %s", error.message)
            except Exception as error:  # whoever waits must hear of it, whatever it is
                self._fail(error)
                raise
            else:
                answered_s = asyncio.get_running_loop().time()
                for end in self._ends(ended):
                    end.set_result(None)
            await asyncio.sleep(PERIOD_S)

    def _fail(self, error: Exception) -> None:
        for end in self._ends(list(self._waiting)):
            end.set_exception(error)

    def _ends(self, keys: Collection[Key]) -> list["asyncio.Future[None]"]:
        return [end for key in keys for end in self._waiting.get(key, ()) if not end.done()]
