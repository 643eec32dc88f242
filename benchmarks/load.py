"""A small streaming load generator: what an OpenAI client sees, with as little CPU of its own as possible."""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass

import aiohttp


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
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for piece in response.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n\n")
            for line in lines:
                # Counted without parsing: the client shares two cores with what it measures.
                if b'"content":"' in line and b'"content":""' not in line:
                    tokens += 1
                    first_s = first_s or time.perf_counter() - started_s
    return StreamResult(first_s, time.perf_counter() - started_s, tokens)


async def measure_throughput(url: str, model: str, *, clients: int, max_tokens: int) -> float:
    """Tokens per second over `clients` simultaneous streams."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:
        started_s = time.perf_counter()
        results = await asyncio.gather(
            *(stream_chat(session, url, model, f"Tell me story number {i}.", max_tokens) for i in range(clients))
        )
        return sum(result.tokens for result in results) / (time.perf_counter() - started_s)


async def measure_first_token(url: str, model: str, *, rounds: int) -> float:
    """Median seconds to the first token at one client."""
    async with aiohttp.ClientSession() as session:
        times = [
            (await stream_chat(session, url, model, f"Say hello number {i}.", max_tokens=4)).first_token_s for i in range(rounds)
        ]
    return statistics.median(times)


async def measure_get(url: str, *, rounds: int) -> float:
    """Median seconds of one small GET on a kept-alive connection."""
    times = []
    async with aiohttp.ClientSession() as session:
        for _ in range(rounds):
            started_s = time.perf_counter()
            async with session.get(url) as response:
                json.loads(await response.read())
            times.append(time.perf_counter() - started_s)
    return statistics.median(times)
