"""A client that waits for a load, and clients that leave, on a real hub."""

import asyncio
import json
import re
import time

import httpx
import openai
import pytest

from tests.cluster import SECOND_MODEL, RunningHub

LONG = "This is one of very many words. " * 300


def lines_since(hub: RunningHub, size: int) -> list[str]:
    with (hub.home / "logs" / "serve.log").open("rb") as log:
        log.seek(size)
        return log.read().decode("utf-8", "replace").splitlines()


def log_bytes(hub: RunningHub) -> int:
    """Size of the log once nothing comes any more: lines of earlier tests reach it late."""
    log, seen = hub.home / "logs" / "serve.log", -1
    for _ in range(20):
        if (size := log.stat().st_size) == seen:
            break
        seen = size
        time.sleep(1.0)
    return size


def body(hub: RunningHub, *, stream: bool, content: str = "Tell me a very long story.") -> dict[str, object]:
    return {
        "model": hub.model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 600,
        "ignore_eos": True,
        "stream": stream,
    }


async def ask_and_leave(client: httpx.AsyncClient, hub: RunningHub, asked: dict[str, object], after_s: float) -> None:
    try:
        async with asyncio.timeout(after_s), client.stream("POST", f"{hub.url}/v1/chat/completions", json=asked) as answer:
            await answer.aread()
    except TimeoutError:
        return
    pytest.fail("the answer came before its client left")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("count", "content", "after_s"), [(1, "Hi", 0.5), (1, LONG, 0.1), (20, "Hi", 0.8)])
async def test_client_that_leaves_is_one_info_line(
    hub: RunningHub, stream: bool, count: int, content: str, after_s: float
) -> None:
    size = log_bytes(hub)
    asked = body(hub, stream=stream, content=content)
    # One client with a connection each: making twenty takes longer than they stay.
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as leaving:
        await asyncio.gather(*(ask_and_leave(leaving, hub, asked, after_s) for _ in range(count)))
    await asyncio.sleep(3.0)  # what is never retrieved is told when garbage is collected
    async with httpx.AsyncClient(timeout=60) as client:
        last = await client.post(f"{hub.url}/v1/chat/completions", json=asked | {"max_tokens": 1, "stream": False})
        last.raise_for_status()
    await asyncio.sleep(0.5)
    lines = [line for line in lines_since(hub, size) if '"answered"' not in line]
    assert len([line for line in lines if "The client left" in line]) == count
    assert [line for line in lines if "The client left" not in line] == []


def test_stream_of_a_model_that_must_be_loaded_begins_with_comments(hub: RunningHub, client: openai.OpenAI) -> None:
    httpx.post(f"{hub.url}/api/v1/models/unload", json={"model_id": SECOND_MODEL}, timeout=60)
    asked = {"model": SECOND_MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "stream": True}
    began_s = time.monotonic()
    with httpx.stream("POST", f"{hub.url}/v1/chat/completions", json=asked, timeout=180) as answer:
        assert answer.status_code == 200
        lines = (line for line in answer.iter_lines() if line)
        assert re.fullmatch(rf": (loading {SECOND_MODEL}|waiting for memory), \d+ s", next(lines))
        assert time.monotonic() - began_s < 2.0
        rest = list(lines)
    assert json.loads(next(line for line in rest if line.startswith("data: ")).removeprefix("data: "))["choices"]
    assert rest[-1] == "data: [DONE]"
    # There is memory for one of the two, so the first model must be loaded anew; OpenAI's client sees the answer only.
    stream = client.chat.completions.create(
        model=hub.model, messages=[{"role": "user", "content": "Hi"}], max_tokens=3, stream=True
    )
    assert [chunk.choices[0].finish_reason for chunk in stream if chunk.choices][-1] in {"stop", "length"}
