"""One provider as its engines use it: an origin with retries, a breaker, metrics, and its server-sent events."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from aihub.chat.providers.failures import ProviderError, ProviderUnavailableError, Refusal, explain_refusal
from aihub.chat.providers.origin import Origin, parse_object
from aihub.chat.providers.resilience import Attempts, CircuitBreaker, RetryPolicy
from aihub.core.errors import HubError
from aihub.core.health import PartHealth
from aihub.core.request_record import waiting

_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600)


class ProviderMetrics:
    """Latency, errors and retries of each provider, on one registry which is passed in."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry if registry is not None else CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            "aihub_provider_requests",
            "Requests to a provider by outcome; retries are not counted apart. outcome is ok, error or cancelled.",
            ["provider", "outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "aihub_provider_request_seconds",
            "From the request to the end of the answer, retries included.",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_byte = Histogram(
            "aihub_provider_first_chunk_seconds",
            "From the request to the first chunk of a stream, retries included.",
            ["provider"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.errors = Counter(
            "aihub_provider_errors", "Failed requests by the error's code.", ["provider", "code"], registry=registry
        )
        self.retries = Counter("aihub_provider_retries", "Further tries before the first byte.", ["provider"], registry=registry)
        self.breaker_open = Gauge(
            "aihub_provider_breaker_open", "1 while a provider is left alone after failures.", ["provider"], registry=registry
        )


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
            HubError: See `aihub.chat.providers.failures`.
        """

        async def once() -> dict[str, Any]:
            answer = await self.origin.post_json(path, body)
            check(answer)
            return answer

        with self._measured(), waiting():
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
            with waiting():
                chunk, chunks = await self._attempts.run(begin)
            self._metrics.first_byte.labels(self.provider).observe(time.perf_counter() - started_s)
            async with aclosing(chunks):
                while True:
                    yield chunk
                    try:
                        with waiting():
                            chunk = await anext(chunks)
                    except StopAsyncIteration:
                        return
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


DONE = "data: [DONE]\n\n"

_END_TIMEOUT_S = 0.25


def data_frame(value: dict[str, Any]) -> str:
    """Render one event."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_frame(error: HubError) -> str:
    """Render the end of a stream that failed: the error, then `[DONE]`."""
    return data_frame(error.to_openai()) + DONE


async def read_events(provider: str, lines: AsyncGenerator[bytes, None]) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the JSON objects of an OpenAI stream up to `[DONE]`; closing this closes `lines`.

    Raises:
        ProviderUnavailableError: The stream ended before `[DONE]` and before a finish reason.
        HubError: The stream carries an error object, or something that is no event.
    """
    is_finished = False
    async with aclosing(lines):
        async for line in lines:
            if not line.startswith(b"data:"):
                continue  # comments, `event:` and `id:` lines
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                await _read_end(lines)
                return
            chunk = parse_object(provider, data)
            raise_told_error(provider, chunk)
            is_finished = is_finished or any(
                choice.get("finish_reason") for choice in chunk.get("choices") or () if isinstance(choice, dict)
            )
            yield chunk
    if not is_finished:
        raise broken_off(provider)


async def _read_end(lines: AsyncGenerator[bytes, None]) -> None:
    """Read past `[DONE]`: only an answer read to its end leaves its connection open for the next request."""
    with contextlib.suppress(TimeoutError, HubError):
        async with asyncio.timeout(_END_TIMEOUT_S):
            async for _ in lines:
                pass


def raise_told_error(provider: str, chunk: dict[str, Any]) -> None:
    """Raise the error a chunk of a stream tells of, if it does.

    Raises:
        HubError: As for the same error with a status.
    """
    told = chunk.get("error")
    if not told:
        return
    error = told if isinstance(told, dict) else {"message": told}
    code = error.get("code") or error.get("type")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    if code in {"rate_limit_exceeded", "insufficient_quota"}:
        status = 429
    elif code == "context_length_exceeded" or error.get("type") == "invalid_request_error":
        status = 400
    message = str(error.get("message") or "")[:500]
    raise explain_refusal(Refusal(provider, status, message, str(code) if code else None))


def broken_off(provider: str) -> ProviderUnavailableError:
    return ProviderUnavailableError(f"The provider {provider!r} broke off in the middle of its answer. Try again.")
