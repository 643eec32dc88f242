"""A small load generator: what a client sees, with as little CPU of its own as possible."""

import asyncio
import gc
import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
import numpy as np

from aihub.core.hub_requests import hub_headers

_UNCACHED = {"Cache-Control": "no-store"}
_TIMER_S = 0.0015
"""The event loop's timer is up to a millisecond late; the rest of a wait goes by in turns of the loop."""


def connector(socket: str | None) -> aiohttp.BaseConnector:
    """Any number of connections to the address of a URL, or to a Unix socket instead of it."""
    return aiohttp.TCPConnector(limit=0) if socket is None else aiohttp.UnixConnector(socket, limit=0)


def open_session(
    socket: str | None = None, *, headers: Mapping[str, str] | None = None, timeout: aiohttp.ClientTimeout | None = None
) -> aiohttp.ClientSession:
    """Open a session with the key of `AIHUB_API_KEY`; see `connector`."""
    sent = hub_headers() | dict(headers or {})
    return aiohttp.ClientSession(headers=sent, connector=connector(socket), timeout=timeout or aiohttp.ClientTimeout(total=300))


@dataclass(frozen=True, slots=True)
class StreamResult:
    """One streamed answer: seconds to the first content, seconds in all, content chunks (one token each)."""

    first_token_s: float
    total_s: float
    tokens: int


async def stream_chat(session: aiohttp.ClientSession, url: str, model: str, prompt: str, max_tokens: int) -> StreamResult:
    """Stream one greedy answer of exactly `max_tokens` tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    started_s = time.perf_counter()
    first_s, tokens, rest = 0.0, 0, b""
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=_UNCACHED) as response:
        if response.status != 200:
            raise SystemExit(f"The server answered {response.status}: {await response.text()}")
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n\n")
            for line in lines:
                # Counted without parsing: the client shares two cores with what it measures.
                if b'"content":"' in line and b'"content":""' not in line:
                    tokens += 1
                    first_s = first_s or time.perf_counter() - started_s
    return StreamResult(first_s, time.perf_counter() - started_s, tokens)


async def measure_throughput(
    url: str, model: str, *, clients: int, max_tokens: int, socket: str | None = None, apart_s: float = 0.0
) -> float:
    """Tokens per second over `clients` simultaneous streams, each begun `apart_s` after the one before."""

    async def client(number: int) -> StreamResult:
        await asyncio.sleep(number * apart_s)
        return await stream_chat(session, url, model, f"Tell me story number {number}.", max_tokens)

    async with open_session(socket, timeout=aiohttp.ClientTimeout(total=600)) as session:
        started_s = time.perf_counter()
        results = await asyncio.gather(*map(client, range(clients)))
        return sum(result.tokens for result in results) / (time.perf_counter() - started_s)


async def measure_first_token(url: str, model: str, *, rounds: int) -> float:
    """Median seconds to the first token at one client."""
    async with open_session() as session:
        times = [
            (await stream_chat(session, url, model, f"Say hello number {i}.", max_tokens=4)).first_token_s for i in range(rounds)
        ]
    return statistics.median(times)


async def measure_get(url: str, *, rounds: int, socket: str | None = None) -> float:
    """Median seconds of one small GET on a kept-alive connection."""
    times = []
    async with open_session(socket) as session:
        for _ in range(rounds):
            started_s = time.perf_counter()
            async with session.get(url) as response:
                json.loads(await response.read())
            times.append(time.perf_counter() - started_s)
    return statistics.median(times)


@dataclass(slots=True)
class Latencies:
    """Seconds of each answer with status 200, and how many others there were."""

    seconds: list[float] = field(default_factory=list)
    errors: int = 0

    def percentile_ms(self, percent: float) -> float:
        return float(1000 * np.percentile(self.seconds, percent)) if self.seconds else float("nan")


async def measure_in_turn(url: str, bodies: Sequence[bytes], *, socket: str | None = None) -> Latencies:
    """Post JSON bodies one after another on one connection."""
    found = Latencies()
    with _no_collection():
        async with open_session(socket, headers=_JSON) as session:
            for body in bodies:
                await _post(session, url, body, time.perf_counter(), found)
    return found


async def measure_arrivals(url: str, bodies: Sequence[bytes], rate: float, *, socket: str | None = None) -> Latencies:
    """Post JSON bodies at random moments, `rate` in a second, whether or not earlier ones are answered.

    An answer's time begins when its request was due, so waiting of any kind counts.
    """
    found = Latencies()
    waits_s = np.random.default_rng(0).exponential(1 / rate, size=len(bodies)).tolist()
    with _no_collection():
        async with open_session(socket, headers=_JSON) as session:
            async with asyncio.TaskGroup() as tasks:
                due_s = time.perf_counter()
                for body, wait_s in zip(bodies, waits_s, strict=True):
                    due_s += wait_s
                    await _sleep_until(due_s)
                    tasks.create_task(_post(session, url, body, due_s, found))
    return found


_JSON = {"Content-Type": "application/json"}


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, begin_s: float, found: Latencies) -> None:
    try:
        async with session.post(url, data=body) as response:
            await response.read()
            is_answered = response.status == 200
    except (aiohttp.ClientError, OSError):
        is_answered = False
    if is_answered:
        found.seconds.append(time.perf_counter() - begin_s)
    else:
        found.errors += 1


async def _sleep_until(due_s: float) -> None:
    await asyncio.sleep(due_s - _TIMER_S - time.perf_counter())
    while time.perf_counter() < due_s:  # noqa: ASYNC110  # a moment is no event
        await asyncio.sleep(0)


@contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collection of this process would count as the server's time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
