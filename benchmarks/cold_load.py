"""Loading the default chat model: the hub beside bare vLLM, and the first answers after a load beside later ones."""

import asyncio
import statistics
import time
from pathlib import Path

import httpx

from aihub.core.hub_requests import hub_headers
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.models.store.default_models import select_chat_model
from benchmarks import load, servers

LOAD_TIMEOUT_S = 600.0
FIRST_ANSWERS = 3
LATER_ANSWERS = 15


def measure(hub_url: str, logs: Path, rounds: int) -> list[tuple[str, float, float]]:
    """Return (what, hub or first, bare or later) in seconds: medians over rounds of one load each, in turn.

    The hub's other processes stay while bare vLLM starts, so both start on the same machine in the same state.
    """
    settings = Settings()
    model = select_chat_model(settings, load_profile(settings.profile)).model_id
    hub_s, bare_s, firsts_s, laters_s = [], [], [], []
    for _ in range(rounds):
        unload(hub_url, model)
        bare_s.append(start_bare(logs / "vllm-load.log"))
        started_s = time.perf_counter()
        change(hub_url, "load", {"model_id": model})
        hub_s.append(time.perf_counter() - started_s)
        firsts_s.append(asyncio.run(load.measure_first_token(hub_url, model, rounds=FIRST_ANSWERS)))
        laters_s.append(asyncio.run(load.measure_first_token(hub_url, model, rounds=LATER_ANSWERS)))
    return [
        ("load of the default chat model vs bare vLLM", statistics.median(hub_s), statistics.median(bare_s)),
        ("first token right after a load vs later", statistics.median(firsts_s), statistics.median(laters_s)),
    ]


def unload(hub_url: str, model: str) -> None:
    """Take the model out of memory wholly."""
    change(hub_url, "unload", {"model_id": model, "level": "full"})


def change(hub_url: str, what: str, body: dict[str, str]) -> None:
    answer = httpx.post(f"{hub_url}/api/v1/models/{what}", json=body, headers=hub_headers(), timeout=LOAD_TIMEOUT_S)
    if answer.status_code != 200:
        raise SystemExit(f"The hub could not {what} the model: {answer.text}")


def start_bare(log: Path) -> float:
    """Return the seconds from the start of vLLM's own server until it answers; it is stopped again."""
    started_s = time.perf_counter()
    with servers.running_vllm(log):
        return time.perf_counter() - started_s
