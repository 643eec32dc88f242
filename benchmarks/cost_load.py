"""Three tenants who ask at the same time for different things; part of `benchmarks.cost` and of a test."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp

LONG_PROMPT_WORDS = 150
_TIMEOUT = aiohttp.ClientTimeout(total=300)
_WORDS = "Cửa hàng mở cửa lúc tám giờ sáng và đóng cửa lúc chín giờ tối mỗi ngày trừ chủ nhật".split()


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant of the load, with a key of its own."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class Models:
    chat: str
    embedding: str


Ask = Callable[[aiohttp.ClientSession, str, Models, int], Awaitable[str]]


async def run_load(url: str, tenants: Sequence[Tenant], models: Models, seconds: float) -> Counter[str]:
    """Let the first tenant write long answers, the second send long prompts and leave in the middle, and the third embed.

    Returns:
        Requests by tenant and how they ended, such as `writer 200`.
    """
    kinds: tuple[tuple[Ask, ...], ...] = ((_write, _write, _write), (_read, _leave), (_embed,))
    counts: Counter[str] = Counter()
    end_s = time.monotonic() + seconds
    clients = [
        _repeat(url, tenant, models, ask, number, end_s, counts)
        for tenant, asks in zip(tenants, kinds, strict=True)
        for number, ask in enumerate(asks)
    ]
    await asyncio.gather(*clients)
    return counts


async def _repeat(url: str, tenant: Tenant, models: Models, ask: Ask, number: int, end_s: float, counts: Counter[str]) -> None:
    headers = {"Authorization": f"Bearer {tenant.key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=_TIMEOUT) as session:
        turn = 0
        while time.monotonic() < end_s:
            counts[f"{tenant.name} {await ask(session, url, models, 1000 * number + turn)}"] += 1
            turn += 1


async def _write(session: aiohttp.ClientSession, url: str, models: Models, number: int) -> str:
    return await _stream(session, url, models, f"Story {number}: write it in full.", 96)


async def _read(session: aiohttp.ClientSession, url: str, models: Models, number: int) -> str:
    words = [_WORDS[(number + index) % len(_WORDS)] for index in range(LONG_PROMPT_WORDS)]
    return await _stream(session, url, models, f"{number} {' '.join(words)}", 2)


async def _leave(session: aiohttp.ClientSession, url: str, models: Models, number: int) -> str:
    try:
        async with asyncio.timeout(0.7):
            return await _stream(session, url, models, f"Poem {number}: as long as you can.", 400)
    except TimeoutError:
        return "left"


async def _stream(session: aiohttp.ClientSession, url: str, models: Models, text: str, max_tokens: int) -> str:
    body = {
        "model": models.chat,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "stream": True,
        "ignore_eos": True,
    }
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        async for _ in response.content.iter_any():
            pass
        return str(response.status)


async def _embed(session: aiohttp.ClientSession, url: str, models: Models, number: int) -> str:
    texts = [" ".join(_WORDS[(number + index + word) % len(_WORDS)] for word in range(40)) for index in range(24)]
    async with session.post(f"{url}/v1/embeddings", json={"model": models.embedding, "input": texts}) as response:
        await response.read()
        return str(response.status)
