"""Trainings as jobs: those whose process died are started again, waited for, and cleaned up after.

What was started twice does no harm: the process that holds the lock of a store and model trains, the other one ends.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from aihub.core.concurrency import raise_if_cancelled, run_to_end
from aihub.core.errors import HubError
from aihub.core.job_server import Jobs, JobServerError
from aihub.recsys.open_models import find_leftovers, remove_leftovers
from aihub.recsys.tables.open_runs import OpenRun, OpenRunTable
from aihub.recsys.tables.runs import CANCELLED, HEARTBEAT_S, TrainingRunTable, training_died

logger = logging.getLogger(__name__)

WATCH_PERIOD_S = 3.0
PAUSE_S = 15.0
"""After a round that failed, such as while PostgreSQL is away."""
QUIET_S = 3 * HEARTBEAT_S
"""Only of a training that was not heard of for so long the job is looked at."""
UNKNOWN_S = 20.0
"""A job nobody knows may be about to be submitted, or run in another cluster; after so long a silence it is gone."""
CANCEL_PATIENCE_S = 20.0
"""After which a training that was asked to stop is ended from outside."""
MOST_STARTS = 3


def training_command(run_id: str, *, tenant: str, store_id: int, model_type: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return the module that trains, and its arguments."""
    command = ["training.run", "--run-id", run_id, "--tenant", tenant, "--store-id", str(store_id)]
    return [*command, "--model-type", model_type, "--parameters", json.dumps(dict(parameters))]


class TrainingWatch:
    """Looks at the trainings of all tenants that have not ended. Any number of replicas may watch.

    A training keeps its id when it is started again, so that it goes on from its own checkpoint.
    """

    def __init__(self, runs: OpenRunTable, jobs: Jobs) -> None:
        self._runs = runs
        self._jobs = jobs
        self._cancelling: dict[str, float] = {}

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            raise_if_cancelled()
            pause_s = WATCH_PERIOD_S
            try:
                await self.look()
            except HubError as error:
                logger.warning("Trainings are looked after later: %s", error.message)
                pause_s = PAUSE_S
            except Exception:
                logger.exception("Trainings are looked after later")
                pause_s = PAUSE_S
            await asyncio.sleep(pause_s)

    async def look(self) -> None:
        """Do one round.

        Raises:
            HubError: PostgreSQL does not answer.
        """
        runs = await self._runs.list()
        asked = {run.id for run in runs if run.cancel_requested}
        now_s = time.monotonic()
        self._cancelling = {run_id: self._cancelling.get(run_id, now_s) for run_id in asked}
        for run in runs:
            if run.quiet_s > QUIET_S or run.cancel_requested:
                try:
                    await self._look_at(run)
                except JobServerError as error:
                    logger.warning("Training %s is looked after later: %s", run.id, error)

    async def _look_at(self, run: OpenRun) -> None:
        state = await asyncio.to_thread(self._jobs.state, run.id, run.attempts)
        if state == "alive":
            if run.cancel_requested and time.monotonic() - self._cancelling[run.id] > CANCEL_PATIENCE_S:
                logger.warning("Training %s did not stop when asked; its job is ended.", run.id)
                await asyncio.to_thread(self._jobs.stop, run.id, run.attempts)
        elif state == "unknown" and run.quiet_s < UNKNOWN_S:
            return
        elif run.cancel_requested or state == "stopped":
            await self._runs.end(run, "cancelled", code="training_cancelled", message=CANCELLED)
        elif run.attempts >= MOST_STARTS:
            error = training_died(run.id, run.attempts)
            if await self._runs.end(run, "failed", code=error.code, message=error.message):
                logger.error("Training %s died %d times; it is given up.", run.id, run.attempts)
        elif await self._runs.claim(run):
            await self._start(run)

    async def _start(self, run: OpenRun) -> None:
        attempt = run.attempts + 1
        logger.warning("Training %s died; start %d of %d.", run.id, attempt, MOST_STARTS)
        try:
            command = training_command(
                run.id,
                tenant=run.tenant_id,
                store_id=run.store_id,
                model_type=run.model_type,
                parameters=run.hyper_parameters,
            )
            metadata = {"store_id": str(run.store_id), "model_type": run.model_type}
            await asyncio.to_thread(self._jobs.submit, command, run.id, attempt, metadata=metadata)
        except JobServerError:
            # The refusal may have come for a job that was taken, its first answer being lost: such a start counts.
            if await asyncio.to_thread(self._jobs.state, run.id, attempt) == "unknown":
                await self._runs.give_back(run)
            raise


CLEANUP_PERIOD_S = 600.0


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
            raise_if_cancelled()
            try:
                await self.clean()
            except (HubError, OSError) as error:
                logger.warning("What killed trainings left is removed later: %s", error)
            await asyncio.sleep(CLEANUP_PERIOD_S)

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


WAIT_PERIOD_S = 2.0
OUTAGE_PATIENCE_S = 30.0
"""Those who wait are told when nobody could be asked for so long; a restart of the recommender or PostgreSQL is shorter."""

Key = tuple[str, str]
"""Tenant and training."""


class TrainingWaits:
    """One task looks every `WAIT_PERIOD_S` as long as somebody waits; nobody who waits holds anything else meanwhile.

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
            await asyncio.sleep(WAIT_PERIOD_S)

    def _fail(self, error: Exception) -> None:
        for end in self._ends(list(self._waiting)):
            end.set_exception(error)

    def _ends(self, keys: Collection[Key]) -> list["asyncio.Future[None]"]:
        return [end for key in keys for end in self._waiting.get(key, ()) if not end.done()]
