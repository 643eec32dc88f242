"""Ways from a client to the hub's replica, side by side in one run: what each costs, and whether it notices a client that leaves.

The same hub is started with Serve's own proxy, with the local fast path that is the default, and with Ray's HAProxy and direct
ingress; the replica's own server is asked without anything in front of it. docs/adr/0014-local-fast-path.md holds the choice.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aihub.core.settings import Settings
from benchmarks import idle, load, recsys_shop, recsys_speed, servers

CLIENTS = (1, 16, 64)
TOKENS = 32
STREAMED = 3000
AFTER_S = 4.0
BETWEEN_CLIENTS_S = 0.002
"""A proxy spreads the requests that come to it at once; the way without one takes no more of them than its queue holds."""
NO_CALLBACK = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": ""}
HAPROXY = NO_CALLBACK | {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
}


@dataclass(frozen=True, slots=True)
class Way:
    """One way in: variables of the hub, and the socket to ask instead of the hub's port."""

    title: str
    environment: Mapping[str, str]
    socket: str | None = None


WAYS = (
    Way("Serve's proxy", NO_CALLBACK),
    Way("local fast path", {}),
    Way("HAProxy, direct ingress", HAPROXY),
    Way("the replica's own server", {}, "hub"),
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the measurement of predictions")
    parser.add_argument("--ways", nargs="+", type=int, default=range(len(WAYS)), help="numbers of the ways to try, from 0")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="aihub-bench-") as folder:
        home = Path(folder)
        recsys_speed.share_models(home)
        print(f"{'':<26}{'empty ms':>10}" + "".join(f"{f'{clients} x tok/s':>12}" for clients in CLIENTS), end="")
        print(f"{'predict p50':>12}{'p99 ms':>9}{'errors':>8}{'left: engine busy s':>21}", flush=True)
        for number in options.ways:
            way = WAYS[number]
            environment = recsys_speed.OWN_STORES | {"AIHUB_HOME": str(home)} | dict(way.environment)
            with servers.running_hub(Settings().home_path / "logs" / f"bench-way-{number}.log", environment) as url:
                recsys_speed.prepare(home)
                print(f"{way.title:<26}{measure(url, way, home, options.rounds, options.seconds)}", flush=True)


def measure(url: str, way: Way, home: Path, rounds: int, seconds: float) -> str:
    """Return one row of the table."""
    model = idle.loaded_models(url)[0]
    run_id = idle.find_run_id(url)
    at = {name: _socket(home, name) for name in ("hub", "recsys")} if way.socket else {}
    empty_ms = 1000 * asyncio.run(load.measure_get(f"{url}/v1/models", rounds=300, socket=at.get("hub")))
    row = f"{empty_ms:>10.2f}"
    for clients in CLIENTS:
        speeds = [
            asyncio.run(
                load.measure_throughput(
                    url, model, clients=clients, max_tokens=TOKENS, socket=at.get("hub"), apart_s=BETWEEN_CLIENTS_S
                )
            )
            for _ in range(rounds + 1)
        ]
        row += f"{sorted(speeds[1:])[rounds // 2]:>12.1f}"
    count = round(recsys_speed.RATE * seconds)
    bodies = [json.dumps({"store_id": recsys_shop.STORE, "user_id": user, "n": 10}).encode() for user in range(2 * count)]
    predictions = f"{url}/predict/recommendations"
    asyncio.run(load.measure_in_turn(predictions, bodies[:count], socket=at.get("recsys")))
    found = asyncio.run(load.measure_arrivals(predictions, bodies[count:], recsys_speed.RATE, socket=at.get("recsys")))
    row += f"{found.percentile_ms(50):>12.2f}{found.percentile_ms(99):>9.2f}{found.errors:>8}"
    return row + f"{asyncio.run(_leave(url, model, run_id, at.get('hub'))):>21.2f}"


async def _leave(url: str, model: str, run_id: str, socket: str | None) -> float:
    """Leave in the middle of a stream; return the processor seconds of the engine in the `AFTER_S` that follow."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Tell me a long story."}],
        "max_tokens": STREAMED,
        "ignore_eos": True,
        "stream": True,
    }
    async with load.open_session(socket) as session:
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            for _ in range(8):
                await answer.content.readline()
            before = _engine_s(run_id)
            for _ in range(64):
                await answer.content.readline()
            if _engine_s(run_id) == before:
                raise SystemExit("The engine's seconds do not grow while it answers: its process was not found.")
    await asyncio.sleep(0.5)
    before = _engine_s(run_id)
    await asyncio.to_thread(time.sleep, AFTER_S)
    return _engine_s(run_id) - before


def _engine_s(run_id: str) -> float:
    return sum(usage.cpu_s for usage in idle.read_usage(run_id).values() if "EngineCore" in usage.name)


def _socket(home: Path, name: str) -> str:
    return str(next((home / "sockets").glob(f"{name}-*.sock")))


if __name__ == "__main__":
    main()
