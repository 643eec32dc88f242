"""Whether one engine is awake, and changes of that: nothing may reach a sleeping engine, for it would wait there silently."""

import asyncio
from collections.abc import Awaitable, Callable

from aihub.core.errors import ModelUnavailableError


class EngineSleep:
    """Puts an engine to sleep and wakes it; one change, or one check of the awake engine, at a time.

    Args:
        put_to_sleep: Returns when what the engine held has ended and it sleeps.
        wake: Returns whether the engine is wholly awake.
    """

    def __init__(self, put_to_sleep: Callable[[], Awaitable[None]], wake: Callable[[], Awaitable[bool]]) -> None:
        self._put_to_sleep = put_to_sleep
        self._wake = wake
        self._is_asleep = False
        self._change = asyncio.Lock()

    async def sleep(self) -> None:
        """Put the engine to sleep, after a check under way; requests are refused from now on.

        After a failure it still counts as asleep: it may be paused, and the caller ends it.
        """
        async with self._change:
            self._is_asleep = True  # before the engine is
            await self._put_to_sleep()

    async def wake(self) -> None:
        """Wake the engine; requests are taken again afterwards.

        Raises:
            ModelUnavailableError: It is not wholly awake.
        """
        async with self._change:
            if not await self._wake():
                raise ModelUnavailableError("The engine is not wholly awake.")
            self._is_asleep = False

    async def is_sleeping(self) -> bool:
        """Say whether the engine sleeps, after a change under way has ended."""
        async with self._change:
            return self._is_asleep

    def require_awake(self) -> None:
        """Refuse a request to a sleeping engine.

        Raises:
            ModelUnavailableError: It sleeps.
        """
        if self._is_asleep:
            raise ModelUnavailableError("The model sleeps. Try again in a second.", retry_after_s=1)

    async def check_awake(self, check: Callable[[], Awaitable[None]]) -> None:
        """Run a check that asks the engine for something, unless it sleeps or is changing; it cannot fall asleep meanwhile."""
        if self._is_asleep or self._change.locked():
            return
        async with self._change:
            await check()
