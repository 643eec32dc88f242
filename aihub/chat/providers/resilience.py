"""Trying again before the first byte, and leaving a failing provider alone for a while."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from aihub.chat.providers.failures import ProviderKeyError, ProviderUnavailableError
from aihub.core.errors import EngineTimeoutError, HubError, OverloadedError, RateLimitError

Result = TypeVar("Result")
BreakerState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently to try again.

    Attributes:
        attempts: Tries in all.
        base_delay_s: Mean pause before the second try; doubles from try to try, spread by half to both sides.
        max_delay_s: Longest pause of our own choice.
        max_retry_after_s: Longest `Retry-After` waited for here; beyond it the client is told instead.
    """

    attempts: int = 3
    base_delay_s: float = 0.5
    max_delay_s: float = 8.0
    max_retry_after_s: float = 10.0

    def pause_s(self, error: HubError, failed: int, *, spread: float) -> float | None:
        """Return the pause after `failed` failed tries; None when trying again is of no use.

        Args:
            spread: Uniform in [0, 1).
        """
        # A request that timed out may still be worked on: sending it again doubles the load and the bill.
        if failed >= self.attempts or not error.retryable or isinstance(error, EngineTimeoutError):
            return None
        own: float = min(self.base_delay_s * 2 ** (failed - 1), self.max_delay_s) * (0.5 + spread)
        asked: int | None = error.__dict__.get(
            "retry_after_s"
        )  # Only what the provider said; the class has a default of its own.
        if asked is None:
            return own
        return None if asked > self.max_retry_after_s else max(own, float(asked))


class CircuitBreaker:
    """Refuses calls after `threshold` failures in a row, and lets one through after `cooldown_s` to see.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(
        self, provider: str, *, threshold: int = 5, cooldown_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider = provider
        self._threshold = threshold
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._failures = 0
        self._opened_s: float | None = None
        self._is_probing = False

    @property
    def state(self) -> BreakerState:
        if self._opened_s is None:
            return "closed"
        return "open" if self._clock() < self._opened_s + self._cooldown_s else "half_open"

    def admit(self) -> None:
        """Let a call pass; it must end in `succeed`, `fail` or `release`.

        Raises:
            ProviderUnavailableError: Open, or half open with a probe under way.
        """
        state = self.state
        if state == "closed":
            return
        if state == "half_open" and not self._is_probing:
            self._is_probing = True
            return
        assert self._opened_s is not None  # noqa: S101  # not closed
        left_s = max(self._opened_s + self._cooldown_s - self._clock(), 1.0)
        raise ProviderUnavailableError(
            f"The provider {self._provider!r} failed {self._failures} times in a row and is left alone for {left_s:.0f} s. "
            "Use another model meanwhile.",
            retry_after_s=round(left_s),
        )

    def succeed(self) -> None:
        """The call was answered, be it with a refusal of the request."""
        self._failures = 0
        self._opened_s = None
        self._is_probing = False

    def fail(self) -> None:
        """The call found the provider failing."""
        self._failures += 1
        self._is_probing = False
        if self._failures >= self._threshold:
            self._opened_s = self._clock()

    def release(self) -> None:
        """The call was given up by the client: nothing was learnt."""
        self._is_probing = False


class Attempts:
    """Runs calls under a retry policy and a breaker.

    Args:
        on_retry: Called before each further try.
        sleep: Waits seconds.
    """

    def __init__(
        self,
        breaker: CircuitBreaker,
        policy: RetryPolicy | None = None,
        *,
        on_retry: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.breaker = breaker
        self._policy = policy or RetryPolicy()
        self._on_retry = on_retry
        self._sleep = sleep

    async def run(self, call: Callable[[], Awaitable[Result]]) -> Result:
        """Await `call`, again where that helps; `call` must not have given anything to the client when it raises.

        Raises:
            HubError: The last error.
        """
        failed = 0
        while True:
            try:
                return await self._once(call)
            except HubError as error:
                failed += 1
                pause_s = self._policy.pause_s(error, failed, spread=random.random())  # noqa: S311  # no secret
                # An open breaker will not close within a pause.
                if pause_s is None or self.breaker.state == "open":
                    raise
            self._on_retry()
            await self._sleep(pause_s)

    async def _once(self, call: Callable[[], Awaitable[Result]]) -> Result:
        self.breaker.admit()
        try:
            result = await call()
        except HubError as error:
            self.judge(error)
            raise
        except BaseException:
            self.breaker.release()
            raise
        self.breaker.succeed()
        return result

    def judge(self, error: HubError) -> None:
        """Tell the breaker of a failure.

        5xx of any kind count against the provider, a refused request does not. Limits, a wrong key and our own full pool
        are answered at once, so leaving the provider alone would gain nothing and hide the reason.
        """
        if isinstance(error, RateLimitError | ProviderKeyError | OverloadedError):
            self.breaker.release()
        elif error.status >= 500:
            self.breaker.fail()
        else:
            self.breaker.succeed()
