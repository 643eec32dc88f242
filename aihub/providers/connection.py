"""One provider as its engines use it: an origin with retries, a breaker and metrics."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from aihub.engines.base import PartHealth
from aihub.errors import HubError
from aihub.providers.failures import ProviderError
from aihub.providers.metrics import ProviderMetrics
from aihub.providers.origin import Origin
from aihub.providers.resilience import Attempts, CircuitBreaker, RetryPolicy

Parse = Callable[[str, AsyncGenerator[bytes, None]], AsyncGenerator[dict[str, Any], None]]


class ProviderConnection:
    """Asks one origin.

    Args:
        breaker: One of its own when None.
    """

    def __init__(
        self,
        origin: Origin,
        metrics: ProviderMetrics,
        *,
        policy: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self.origin = origin
        self.provider = origin.provider
        self._metrics = metrics
        retries = metrics.retries.labels(self.provider)
        self._attempts = Attempts(breaker or CircuitBreaker(self.provider), policy, on_retry=retries.inc)
        metrics.breaker_open.labels(self.provider).set_function(lambda: float(self._attempts.breaker.state == "open"))

    async def close(self) -> None:
        await self.origin.close()

    async def retire(self) -> None:
        """Close once the requests that run now have ended."""
        await self.origin.retire()

    @property
    def health(self) -> PartHealth:
        """What the last requests showed; nothing is sent."""
        if self._attempts.breaker.state == "open":
            return PartHealth("down", "it failed several times in a row and is left alone for a while")
        return PartHealth("ok")

    async def ask(self, path: str, body: dict[str, Any], check: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Return the whole answer.

        Args:
            check: Raises `ProviderError` for an object that is no answer.

        Raises:
            HubError: See `aihub.providers.failures`.
        """

        async def once() -> dict[str, Any]:
            answer = await self.origin.post_json(path, body)
            check(answer)
            return answer

        with self._measured():
            return await self._attempts.run(once)

    async def stream(self, path: str, body: dict[str, Any], parse: Parse) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the chunks of a streamed answer; tries again only before the first one.

        Args:
            parse: Makes chunks of lines; must close the lines when it is closed.
        """

        async def begin() -> tuple[dict[str, Any], AsyncGenerator[dict[str, Any], None]]:
            chunks = parse(self.provider, self.origin.post_lines(path, body))
            try:
                return await anext(chunks), chunks
            except StopAsyncIteration as end:
                raise ProviderError(f"The provider {self.provider!r} closed without an answer. Try again.") from end
            except BaseException:
                await chunks.aclose()
                raise

        started_s = time.perf_counter()
        with self._measured():
            first, chunks = await self._attempts.run(begin)
            self._metrics.first_byte.labels(self.provider).observe(time.perf_counter() - started_s)
            async with aclosing(chunks):
                yield first
                try:
                    async for chunk in chunks:
                        yield chunk
                except HubError as error:
                    self._attempts.judge(error)
                    raise

    @contextmanager
    def _measured(self) -> Iterator[None]:
        started_s = time.perf_counter()
        outcome = "cancelled"
        try:
            yield
            outcome = "ok"
        except HubError as error:
            outcome = "error"
            self._metrics.errors.labels(self.provider, error.code).inc()
            raise
        finally:
            self._metrics.requests.labels(self.provider, outcome).inc()
            self._metrics.seconds.labels(self.provider).observe(time.perf_counter() - started_s)
