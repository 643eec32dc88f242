"""What measuring costs: tokens per second of a model with measured calls and with others, in turns on the same engine.

Its replica measures calls that carry a work id, and leaves the others alone, so the hub needs no switch for this.
"""

import asyncio
import os
import statistics
import time
import uuid
from contextlib import aclosing
from pathlib import Path
from typing import Any

from aihub.cli import serve as processes
from benchmarks.idle import find_run_id

CLIENTS, TOKENS, ROUNDS = 16, 96, 5


def main(url: str) -> None:
    """Print the speed with and without, and their ratio."""
    # Read once, when Ray is first imported: the hub's cluster takes callers with its token only.
    os.environ["RAY_AUTH_MODE"] = "token"
    import ray

    join_cluster(find_run_id(url))
    try:
        with_s, without_s = asyncio.run(_measure())
    finally:
        ray.shutdown()
    print(
        f"\nstreams by handle, {CLIENTS} at a time, {TOKENS} tokens, medians of {ROUNDS} rounds in turns: "
        f"{with_s:.1f} tok/s measured, {without_s:.1f} tok/s not measured, ratio {with_s / without_s:.3f}",
        flush=True,
    )


def join_cluster(run_id: str) -> None:
    """Join the Ray cluster of a hub on this machine."""
    import ray

    server = next(process for process in processes.find_run(run_id) if process.name() == "gcs_server")
    options = dict(part.lstrip("-").split("=", 1) for part in server.cmdline() if part.startswith("--") and "=" in part)
    port = options.get("gcs_server_port", "0")
    if port == "0":
        port = next(Path(options["session-dir"]).glob("gcs_server_port_*")).read_text(encoding="utf-8")
    ray.init(address=f"{options['node-ip-address']}:{port}", namespace="serve", log_to_driver=False)


async def _measure() -> tuple[float, float]:
    from ray import serve

    from benchmarks.cost import find_models
    from deployments.llm_app import app_name

    model = find_models().chat
    handle = serve.get_app_handle(app_name(model)).options(method_name="stream_chat", stream=True)
    rounds = [
        (await _speed(handle, model, measured=True), await _speed(handle, model, measured=False)) for _ in range(ROUNDS + 1)
    ]
    return statistics.median(pair[0] for pair in rounds[1:]), statistics.median(pair[1] for pair in rounds[1:])


async def _speed(handle: Any, model: str, *, measured: bool) -> float:
    async def stream(number: int) -> None:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"Tell me story number {number}."}],
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        options = {"work_id": uuid.uuid4().hex} if measured else {}
        async with aclosing(_frames(handle.remote(body, **options))) as frames:
            async for _ in frames:
                pass

    began_s = time.perf_counter()
    await asyncio.gather(*map(stream, range(CLIENTS)))
    return CLIENTS * TOKENS / (time.perf_counter() - began_s)


async def _frames(response: Any) -> Any:
    async for frame in response:
        yield frame
