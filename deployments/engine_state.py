"""Whether an engine started, and why not; whether it sleeps: nothing may reach a sleeping engine, for it would wait silently."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aihub.core.errors import ModelUnavailableError

CANNOT_PASS = frozenset(
    {
        "AssertionError",
        "AttributeError",
        "FileNotFoundError",
        "ImportError",
        "KeyError",
        "MemoryError",
        "ModuleNotFoundError",
        "NotADirectoryError",
        "NotImplementedError",
        "OutOfMemoryError",
        "PermissionError",
        "SafetensorError",
        "TypeError",
        "ValidationError",
        "ValueError",
    }
)
"""Errors which a second start with the same model on the same machine meets again."""

_OWN = re.compile(r"(EngineStartError|EngineCannotStartError): (.+)")
_CAUSE = re.compile(r"^\s*(?:[\w.]*\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
_SLOW_PLACEMENT = "to be scheduled"


class EngineStartError(Exception):
    """The engine did not start; another try may succeed."""


class EngineCannotStartError(EngineStartError):
    """The engine did not start, and the same start would fail again."""


def engine_error(cause: str) -> EngineStartError:
    """Return the error for a cause such as `ValueError: dtype float8 is not supported`."""
    kind = cause.split(":", maxsplit=1)[0].rsplit(".", 1)[-1]
    return (EngineCannotStartError if kind in CANNOT_PASS else EngineStartError)(cause)


def innermost_cause(told: str) -> str | None:
    """Return the last error named in a text with tracebacks, Ray's own wrappers left out; None where none is named."""
    own = _OWN.findall(told)
    if own:
        return str(own[-1][1]).strip()
    causes = [f"{kind}: {text.strip()}" for kind, text in _CAUSE.findall(told) if not kind.startswith("Ray")]
    return causes[-1] if causes else None


def can_pass(told: str) -> bool:
    """Whether what Serve tells of an application that does not start may pass by itself."""
    own = _OWN.findall(told)
    return not (own and own[-1][0] == "EngineCannotStartError") and _SLOW_PLACEMENT not in told


def told_by(application: Any) -> str:
    """Return everything Serve's status says of an application and its deployments, the deployments last."""
    return "\n".join([application.message, *(deployment.message for deployment in application.deployments.values())]).strip()


def reason_of(application: Any) -> str:
    """Return in one line why an application does not start."""
    told = told_by(application)
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    return innermost_cause(told) or (lines[-1] if lines else "Serve gives no reason")


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
