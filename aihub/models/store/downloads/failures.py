"""Why a model was not fetched.

DownloadError               502  the source failed; a new start goes on where it stopped
├── SourceRefusedError      502  the source will never give this: gone, or it points where the hub does not go
├── CorruptDownloadError    502  what arrived is not what was promised; nothing of it is kept
├── DownloadTimeoutError    504  MODEL_DOWNLOAD_TIMEOUT is over; what arrived is kept
└── DiskFullError           507  not enough free space
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from aihub.core.errors import HubError


class DownloadError(HubError):
    status = 502
    code = "download_failed"
    retryable = True


class SourceRefusedError(DownloadError):
    code = "source_refused"
    retryable = False


class CorruptDownloadError(DownloadError):
    code = "download_corrupt"
    retryable = False


class DownloadTimeoutError(DownloadError):
    status = 504
    code = "download_timeout"
    retryable = False


class DiskFullError(DownloadError):
    status = 507
    code = "disk_full"
    retryable = False


logger = logging.getLogger(__name__)

Result = TypeVar("Result")
MAX_DELAY_S = 30.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a source may fail.

    Attributes:
        attempts: Tries in a row that bring nothing new before it is given up.
        backoff_s: First pause; doubles with each such try, up to 30 s.
        connect_s: Longest wait for a connection.
        stall_s: Longest silence in the middle.
    """

    attempts: int = 5
    backoff_s: float = 1.0
    connect_s: float = 15.0
    stall_s: float = 60.0


class TryAgainError(DownloadError):
    """A failure that may pass. `retry_after_s` is the source's own wish."""


async def keep_trying(attempt: Callable[[], Awaitable[Result]], received: Callable[[], int], retry_policy: RetryPolicy) -> Result:
    """Return what `attempt` returns; repeat it after a `TryAgainError`, with growing pauses.

    Args:
        attempt: One try; goes on where the last one stopped.
        received: Bytes so far. A try that raises it above all earlier ones starts the count anew.
        retry_policy: When to give up.

    Raises:
        DownloadError: The last failure, when too many in a row brought nothing new.
    """
    failures, most = 0, received()
    while True:
        try:
            return await attempt()
        except TryAgainError as error:
            failures = 0 if received() > most else failures + 1
            most = max(most, received())
            if failures >= retry_policy.attempts:
                raise DownloadError(
                    f"{error.message} Gave up after {failures} tries; start again to go on where it stopped."
                ) from error
            delay_s = min(MAX_DELAY_S, error.retry_after_s or retry_policy.backoff_s * 2 ** max(0, failures - 1))
            logger.info("Download interrupted: %s Next try in about %.0f s.", error.message, delay_s)
            await asyncio.sleep(delay_s * random.uniform(0.75, 1.25))  # noqa: S311  # spreads load, no secret
