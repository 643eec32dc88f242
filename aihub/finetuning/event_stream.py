"""Events of a job as they come, by asking for new ones again and again until the job rests."""

import asyncio
from collections.abc import AsyncGenerator

from aihub.core.errors import StorageUnavailableError
from aihub.finetuning.tables.events import EventRecord, EventTable
from aihub.finetuning.tables.jobs import RESTING, JobTable

POLL_S = 1.0
PAGE_EVENTS = 200
LOOK_BACK = 50
"""Numbers before the newest one seen that are read again: of two writers, the one with the lower number may commit later."""


async def follow_events(
    jobs: JobTable, events: EventTable, tenant: str, job_id: str, *, after: int, poll_s: float = POLL_S
) -> AsyncGenerator[EventRecord, None]:
    """Yield events with numbers above `after`, oldest first; ends after those of a job that has ended, is paused or interrupted.

    While PostgreSQL is away, nothing comes.

    Raises:
        NotFoundError: There is no such job.
    """
    newest, seen, was_resting = after, set[int](), False
    while True:
        try:
            # The state first: what is told with the last change of it is then among the events.
            is_resting = (await jobs.get(tenant, job_id)).status in RESTING
            page = await events.following(tenant, job_id, limit=PAGE_EVENTS, after=max(after, newest - LOOK_BACK))
        except StorageUnavailableError:
            await asyncio.sleep(poll_s)
            continue
        for event in page:
            if event.number not in seen:
                newest = max(newest, event.number)
                seen.add(event.number)
                yield event
        seen = {number for number in seen if number > newest - LOOK_BACK}
        if len(page) == PAGE_EVENTS:
            continue
        if is_resting and was_resting:
            return
        # Once more: whoever ended the job may write its last event behind the state.
        was_resting = is_resting
        await asyncio.sleep(poll_s)
