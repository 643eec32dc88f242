"""Work in a thread that changes something and must not go on behind the back of who asked for it."""

import asyncio
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def run_to_end(work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """Run blocking work in a thread; a cancelled caller is held until the thread has ended.

    `asyncio.to_thread` returns at once when cancelled and leaves its thread running: what the caller then does with the same
    file, lock or index happens at the same time as the thread's work, or a second time.

    Raises:
        asyncio.CancelledError: The caller was cancelled; the work has been done, or its failure is in the log.
        Exception: Whatever `work` raises.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not thread.done():
        try:
            await asyncio.wait({thread})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return thread.result()
    if (failure := thread.exception()) is not None:
        logger.warning("Work of a cancelled caller failed: %r", failure)
    raise cancelled
