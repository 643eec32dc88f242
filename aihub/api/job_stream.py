"""Events of a job as server-sent event frames, with a comment when nothing happens so that proxies keep the line open."""

import asyncio
from collections.abc import AsyncGenerator

from aihub.registry.downloads.events import JobEvent

KEEP_ALIVE_S = 15.0


async def job_frames(events: AsyncGenerator[JobEvent, None], *, keep_alive_s: float = KEEP_ALIVE_S) -> AsyncGenerator[str, None]:
    """Yield `event: progress` frames, one `event: end`, and `data: [DONE]`; closing it closes `events`."""
    following: asyncio.Task[JobEvent | None] | None = None
    try:
        while True:
            following = following or asyncio.create_task(_following(events))
            done, _ = await asyncio.wait({following}, timeout=keep_alive_s)
            if not done:
                yield ": still running\n\n"
                continue
            event, following = following.result(), None
            if event is None:
                break
            yield f"event: {event.type}\nid: {event.job.sequence}\ndata: {event.job.model_dump_json()}\n\n"
        yield "data: [DONE]\n\n"
    finally:
        if following is not None:
            following.cancel()
            # Gathered, so that what it ends with is taken.
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()


async def _following(events: AsyncGenerator[JobEvent, None]) -> JobEvent | None:
    return await anext(events, None)
