"""Trainings whose process died are started again: the job's driver was killed, or the whole cluster was started anew.

What was started twice does no harm: the process that holds the lock of a store and model trains, the other one ends.
"""

import asyncio
import logging
import time
from typing import Any, Literal, Protocol

from aihub.errors import HubError
from aihub.storage.recsys_open_runs import OpenRun, OpenRunTable
from aihub.storage.recsys_runs import CANCELLED, HEARTBEAT_S, training_died

logger = logging.getLogger(__name__)

PERIOD_S = 3.0
PAUSE_S = 15.0
"""After a round that failed, such as while PostgreSQL is away."""
QUIET_S = 3 * HEARTBEAT_S
"""Only of a training that was not heard of for so long the job is looked at."""
UNKNOWN_S = 20.0
"""A job nobody knows may be about to be submitted, or run in another cluster; after so long a silence it is gone."""
CANCEL_PATIENCE_S = 20.0
"""After which a training that was asked to stop is ended from outside."""
MOST_STARTS = 3

JobState = Literal["alive", "stopped", "ended", "unknown"]
"""What became of a job; `stopped`: by hand, `unknown`: the cluster was started anew since."""


class JobServerError(RuntimeError):
    """The cluster's job server does not answer, or refuses."""


class Jobs(Protocol):
    """One job per start of a training. All three block and raise `JobServerError`."""

    def submit(
        self, run_id: str, attempt: int, *, tenant: str, store_id: int, model_type: str, parameters: dict[str, Any]
    ) -> None: ...

    def state(self, run_id: str, attempt: int) -> JobState: ...

    def stop(self, run_id: str, attempt: int) -> None: ...


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
            pause_s = PERIOD_S
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
            await asyncio.to_thread(
                self._jobs.submit,
                run.id,
                attempt,
                tenant=run.tenant_id,
                store_id=run.store_id,
                model_type=run.model_type,
                parameters=run.hyper_parameters,
            )
        except JobServerError:
            # The refusal may have come for a job that was taken, its first answer being lost: such a start counts.
            if await asyncio.to_thread(self._jobs.state, run.id, attempt) == "unknown":
                await self._runs.give_back(run)
            raise
