"""What the hub bills is what the kernel counts for its engines; `make bench ARGS="--only cost"` holds it tighter."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import openai

from benchmarks import cost
from benchmarks.cost_load import LONG_PROMPT_WORDS, Tenant
from tests.cluster import RunningHub

LOAD_S = 8.0
TOLERANCE = 0.1
KEY = "unused"


def test_bills_add_up_to_what_engines_used(hub: RunningHub) -> None:
    tenants = [Tenant(name, KEY) for name in cost.TENANTS]  # this hub has one tenant and no keys
    cost.warm_up(hub.url, tenants)
    report = cost.measure(hub.url, tenants, LOAD_S)
    assert set(report.counts) == {"writer 200", "reader 200", "reader left", "embedder 200"}
    assert report.unpriced == 0
    assert report.engines.total() > LOAD_S / 2
    assert abs(report.ratio - 1) < TOLERANCE, report


def rows_since(hub: RunningHub, began_at: datetime) -> list[dict[str, str]]:
    query = {"from": began_at.isoformat()}
    text = httpx.get(f"{hub.url}/api/v1/system/analytics/export", params=query, timeout=30).raise_for_status().text
    header, *lines = [line.split(",") for line in text.splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


async def test_a_long_prompt_costs_more_than_a_short_one_beside_it_and_a_client_that_leaves_pays(
    hub: RunningHub, async_client: openai.AsyncOpenAI
) -> None:
    began_at = datetime.now(UTC)

    async def ask(name: str, text: str, **options: Any) -> None:
        await async_client.chat.completions.create(
            model=hub.model, messages=[{"role": "user", "content": text}], extra_headers={"x-request-id": name}, **options
        )

    async def leave() -> None:
        try:
            async with asyncio.timeout(0.6):
                await ask("left", "Write a very long story.", max_tokens=400, extra_body={"ignore_eos": True})
        except TimeoutError:
            pass

    await asyncio.gather(
        ask("long", f"{time.time()} " + "chợ " * LONG_PROMPT_WORDS, max_tokens=2),
        ask("short", f"{time.time()} chợ", max_tokens=2),
        leave(),
    )
    assert await asyncio.to_thread(cost.wait_for_costs, hub.url, KEY, began_at) == 0
    rows = {row["request_id"]: row for row in rows_since(hub, began_at)}
    paid_s = {name: float(rows[name]["cpu_s"]) for name in ("long", "short", "left")}
    assert paid_s["long"] > 1.3 * paid_s["short"], paid_s  # in the hub's own process they cost the same
    assert paid_s["left"] > 0.02, paid_s
    assert rows["left"]["status"] == "499"
    assert {float(row["gpu_s"]) for row in rows.values() if row["cpu_s"]} == {0.0}


def test_figures_of_the_machine_come_soon_while_a_model_answers(hub: RunningHub, client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Count to a hundred."}]
    with client.chat.completions.create(model=hub.model, messages=messages, max_tokens=200, stream=True) as stream:
        next(iter(stream))
        for _ in range(5):  # a slow machine may leave a part out
            began_s = time.monotonic()
            report = httpx.get(f"{hub.url}/api/v1/system/metrics", timeout=10).raise_for_status().json()
            assert time.monotonic() - began_s < 3.0
            if not report["missing"]:
                break
    assert report["missing"] == {}
    assert next(model for model in report["models"] if model["model_id"] == hub.model)["state"] == "ready"
    assert report["gpus"] == []
    assert report["cpu"]["cores"] > 0
