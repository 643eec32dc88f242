"""Adapters being checked and published in the background, one task a job."""

import asyncio
import logging
import time
from collections.abc import Callable

from aihub.core.errors import HubError, InternalError, UnavailableError
from aihub.finetuning.publication import Publication
from aihub.finetuning.tables.open_jobs import OpenJob, OpenJobTable

logger = logging.getLogger(__name__)

RETRY_S = 10.0
STOP_PATIENCE_S = 15.0
"""How long a check that is cancelled may take to leave the engine before its job is cancelled without it."""
MOST_SURPRISES = 5
"""Tries that may end in an error of the hub itself before the job is given up."""


class PublicationChecks:
    """Goes on with a job at each look until it has ended.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, table: OpenJobTable, publication: Publication, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._table = table
        self._publication = publication
        self._clock = clock
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again_s: dict[str, float] = {}
        self._surprises: dict[str, int] = {}

    async def look_at(self, job: OpenJob, base_digest: str, ended: Callable[[], None]) -> None:
        """Begin, go on with, or stop a job that is trained; never waits for the engine.

        Args:
            base_digest: Of the installed version of the base model.
            ended: Called when the job has ended.

        Raises:
            HubError: PostgreSQL does not answer.
        """
        task = self._tasks.get(job.id)
        if job.wish == "cancel":
            if task is not None and not task.done():
                _cancel_once(task)
                if (job.wish_age_s or 0.0) <= STOP_PATIENCE_S:
                    return  # its end is told by `ended`
            if not await self._publication.finish_published(job):
                await self._table.stop(job)
            ended()
        elif (task is None or task.done()) and self._clock() >= self._again_s.get(job.id, 0.0):
            self._tasks = {name: other for name, other in self._tasks.items() if not other.done()}
            self._tasks[job.id] = asyncio.create_task(self._finish(job, base_digest, ended), name=f"publish {job.id}")

    async def close(self) -> None:
        """Stop all; what is under way is done again by whoever looks next."""
        for task in self._tasks.values():
            _cancel_once(task)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _finish(self, job: OpenJob, base_digest: str, ended: Callable[[], None]) -> None:
        try:
            await self._try(job, base_digest)
        finally:
            ended()

    async def _try(self, job: OpenJob, base_digest: str) -> None:
        try:
            await self._publication.finish(job, base_digest)
        except InternalError as error:
            await self._try_again(job, error)
        except HubError as error:
            if error.retryable:
                self._again_s[job.id] = self._clock() + (error.retry_after_s or RETRY_S)
                logger.warning("The adapter of the job %s is checked later: %s", job.id, error.message)
                await self._tell(job, f"The adapter is checked as soon as its base model answers: {error.message}")
                return
            logger.warning("The adapter of the job %s is not published: %s", job.id, error.message)
            await self._fail(job, error)
        except Exception:
            logger.exception("The adapter of the job %s could not be checked", job.id)
            await self._try_again(job, InternalError("The adapter could not be checked; the log of the hub says why."))

    async def _try_again(self, job: OpenJob, error: InternalError) -> None:
        """Hours of training hang on it: what should not happen may be over in a moment."""
        self._again_s[job.id] = self._clock() + RETRY_S
        self._surprises[job.id] = self._surprises.get(job.id, 0) + 1
        if self._surprises[job.id] >= MOST_SURPRISES:
            await self._fail(job, error)

    async def _tell(self, job: OpenJob, reason: str) -> None:
        try:
            await self._table.wait(job, reason)
        except HubError as error:
            logger.warning("Why the job %s waits could not be written: %s", job.id, error.message)

    async def _fail(self, job: OpenJob, error: HubError) -> None:
        try:
            await self._table.fail(job, error)
        except UnavailableError:  # PostgreSQL; the next look comes to the same end
            self._again_s[job.id] = self._clock() + RETRY_S


def _cancel_once(task: asyncio.Task[None]) -> None:
    """A second time would cut short what the first one makes it do: take its adapter out of the engine."""
    if not task.cancelling():
        task.cancel()
