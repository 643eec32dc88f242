"""Removes what killed trainings have left, once nobody will go on with them."""

import asyncio
import logging
from pathlib import Path

from aihub.errors import HubError
from aihub.recsys.leftovers import find_leftovers, remove_leftovers
from aihub.storage.recsys_runs import TrainingRunTable
from aihub.threads import run_to_end

logger = logging.getLogger(__name__)

PERIOD_S = 600.0


class TrainingCleanup:
    """Looks through the state folder from time to time. Trainings that are open keep what they have.

    Args:
        home: State folder.
    """

    def __init__(self, runs: TrainingRunTable, home: Path) -> None:
        self._runs = runs
        self._home = home

    async def run(self) -> None:
        """Clean up again and again until cancelled."""
        while True:
            try:
                await self.clean()
            except (HubError, OSError) as error:
                logger.warning("What killed trainings left is removed later: %s", error)
            await asyncio.sleep(PERIOD_S)

    async def clean(self) -> None:
        """Do one round.

        Raises:
            HubError: PostgreSQL does not answer; nothing is removed then.
            OSError: The state folder cannot be read.
        """
        found = await asyncio.to_thread(find_leftovers, self._home)
        if not found:
            return
        still_open = await self._runs.find_open_ids({leftover.training_id for leftover in found})
        abandoned = [leftover for leftover in found if leftover.training_id not in still_open]
        if abandoned:
            await run_to_end(remove_leftovers, abandoned)
            logger.info("Removed what %d trainings had left.", len({leftover.training_id for leftover in abandoned}))
