"""`make bench`: every row with its bare peer, measured in interleaved rounds of the same run."""

import argparse
import asyncio
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.models.store.default_models import select_chat_model
from benchmarks import load, servers

CLIENTS = 16
TOKENS = 64


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    hub: float
    peer: float
    unit: str
    aim: str

    def render(self) -> str:
        return f"{self.what:<44} {self.hub:>9.1f} {self.peer:>9.1f} {self.unit:<6} {self.hub / self.peer:>6.2f}  {self.aim}"


def interleave(rounds: int, hub: Callable[[], float], peer: Callable[[], float]) -> tuple[float, float]:
    """Medians of alternating rounds, the first of each discarded as warm-up."""
    pairs = [(hub(), peer()) for _ in range(rounds + 1)][1:]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def measure_llm(hub_url: str, logs: Path, rounds: int) -> list[Row]:
    """Streaming throughput and time to first token against vLLM's own server on the same weights."""
    settings = Settings()
    model = select_chat_model(settings, load_profile(settings.profile)).model_id
    with servers.running_vllm(logs / "vllm.log") as vllm_url:
        throughput = interleave(
            rounds,
            lambda: asyncio.run(load.measure_throughput(hub_url, model, clients=CLIENTS, max_tokens=TOKENS)),
            lambda: asyncio.run(load.measure_throughput(vllm_url, model, clients=CLIENTS, max_tokens=TOKENS)),
        )
        first_token = interleave(
            rounds,
            lambda: 1000 * asyncio.run(load.measure_first_token(hub_url, model, rounds=15)),
            lambda: 1000 * asyncio.run(load.measure_first_token(vllm_url, model, rounds=15)),
        )
    return [
        Row(f"chat stream, {CLIENTS} clients x {TOKENS} tokens, vs bare vLLM", *throughput, "tok/s", "1.0"),
        Row("time to first token, 1 client, vs bare vLLM", *first_token, "ms", "+3 ms"),
    ]


def measure_empty(hub_url: str, logs: Path, rounds: int) -> list[Row]:
    """An empty request through the whole ingress against a bare FastAPI echo."""
    with servers.running_echo(logs / "echo.log") as echo_url:
        medians = interleave(
            rounds,
            lambda: 1000 * asyncio.run(load.measure_get(f"{hub_url}/v1/models", rounds=200)),
            lambda: 1000 * asyncio.run(load.measure_get(echo_url, rounds=200)),
        )
    return [Row("empty request (GET /v1/models) vs bare FastAPI", *medians, "ms", "5 ms")]


def measure_load(hub_url: str, logs: Path, rounds: int) -> list[Row]:
    """The start of the default chat model, and the first tokens after it."""
    from benchmarks import cold_load

    (load_what, *load_s), (first_what, *first_s) = cold_load.measure(hub_url, logs, rounds)
    return [
        Row(load_what, *load_s, "s", "1.2"),
        Row(first_what, *(1000 * seconds for seconds in first_s), "ms", "1.0"),
    ]


def measure_cache(hub_url: str, logs: Path, rounds: int) -> list[Row]:
    """A chat from the response cache."""
    from benchmarks import cached_chat

    return [Row(what, hit, peer, "ms", "3 ms") for what, hit, peer in cached_chat.measure(hub_url, logs, rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running hub; one is started otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", choices=["llm", "cache", "empty", "load", "embeddings", "encoders", "retrieval", "recsys", "idle", "cost"]
    )
    options = parser.parse_args()
    if options.only == "idle":  # it has no peer and wants a quiet machine
        from benchmarks import idle

        idle.main(["--url", options.url] if options.url else [])
        return
    if options.only == "cost":  # likewise, and keys of its own
        from benchmarks import cost

        cost.main([])
        return
    logs = Settings().home_path / "logs"
    print(f"{os.cpu_count()} cores; medians of {options.rounds} interleaved rounds; the last column is the aim.")
    print(f"{'':<44} {'hub':>9} {'bare':>9} {'unit':<6} {'ratio':>6}  aim", flush=True)
    if options.only in {None, "llm", "cache", "empty", "load", "embeddings"}:
        if options.url:
            measure_hub(options.url, logs, options.rounds, options.only)
        else:
            with servers.running_hub(logs / "bench-hub.log") as url:
                measure_hub(url, logs, options.rounds, options.only)
    if options.only in {None, "encoders"}:
        from benchmarks import encoder_comparison

        encoder_comparison.main(["--rounds", str(options.rounds)])
    if options.only in {None, "retrieval"}:
        from benchmarks import retrieval_speed

        retrieval_speed.main([])
    if options.only in {None, "recsys"}:
        from benchmarks import recsys_speed

        recsys_speed.main([])


def measure_hub(url: str, logs: Path, rounds: int, only: str | None) -> None:
    if only in {None, "empty"}:
        show(measure_empty(url, logs, rounds))
    if only in {None, "llm"}:
        show(measure_llm(url, logs, rounds))
    if only in {None, "cache"}:
        show(measure_cache(url, logs, rounds))
    if only in {None, "load"}:
        show(measure_load(url, logs, rounds))
    if only in {None, "embeddings"}:
        from benchmarks import embeddings_speed

        embeddings_speed.main(["--url", url])


def show(rows: list[Row]) -> None:
    for row in rows:
        print(row.render(), flush=True)


if __name__ == "__main__":
    main()
