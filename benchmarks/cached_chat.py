"""A chat from the response cache beside the same chat asked of the hub's engine, and of vLLM's own server."""

import asyncio
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from aihub.core.hub_requests import hub_headers
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.models.store.default_models import select_chat_model
from benchmarks import servers

HITS = 300
ASKED = 3
"""Answers of an engine in each round."""
TOKENS = 32
HEADER = "x-aihub-cache"

Row = tuple[str, float, float]


def measure(hub_url: str, logs: Path, rounds: int) -> list[Row]:
    """Return what was measured, the median ms of a hit, and that of its peer."""
    settings = Settings()
    model = select_chat_model(settings, load_profile(settings.profile)).model_id
    rows: list[Row] = []
    with servers.running_vllm(logs / "vllm.log") as vllm_url:
        for what, more in (("cached chat", {}), ("cached chat, streamed", {"stream": True})):
            body = _body(model, **more)
            hits, misses, bare = [], [], []
            for _ in range(rounds + 1):
                misses.append(asyncio.run(_median_ms(hub_url, body, ASKED, "miss", {"Cache-Control": "no-cache"})))
                hits.append(asyncio.run(_median_ms(hub_url, body, HITS, "hit")))
                bare.append(asyncio.run(_median_ms(vllm_url, body, ASKED)))
            hit, miss, peer = (statistics.median(found[1:]) for found in (hits, misses, bare))
            rows += [(f"{what} vs asking the engine, {TOKENS} tokens", hit, miss), (f"{what} vs bare vLLM", hit, peer)]
    return rows


def _body(model: str, **more: bool) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me a short story about a shop in Hanoi."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        **more,
    }


async def _median_ms(
    url: str, body: Mapping[str, object], count: int, expected: str | None = None, headers: Mapping[str, str] | None = None
) -> float:
    """Post a body so many times on one connection; each answer must be what is expected of the cache."""
    data = json.dumps(body).encode()
    times = []
    sent = {"Content-Type": "application/json", **hub_headers(), **(headers or {})}
    async with aiohttp.ClientSession(headers=sent, timeout=aiohttp.ClientTimeout(total=600)) as session:
        for _ in range(count):
            started_s = time.perf_counter()
            async with session.post(f"{url}/v1/chat/completions", data=data) as response:
                await response.read()
                times.append(1000 * (time.perf_counter() - started_s))
                if response.status != 200 or response.headers.get(HEADER) != expected:
                    raise SystemExit(f"Expected {expected} of the cache, got {response.status} {response.headers.get(HEADER)}.")
    return statistics.median(times)
