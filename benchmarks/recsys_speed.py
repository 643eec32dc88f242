"""Recommendations over HTTP at 100,000 items: p50 and p99 beside a bare FastAPI echo, in one run.

Requests arrive at random moments, 50 in a second, and are timed from the moment they were due. Uncached: each
customer asks for the first time; cached: the same customers again. The hub runs in a state folder of its own.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from aihub.core.embedded.stores import running_urls
from aihub.core.settings import Settings
from benchmarks import load, recsys_shop, servers

ITEMS = 100_000
RATE = 50.0
WARM_UP = 300
OWN_STORES = {"DATABASE_URL": "", "REDIS_URL": "", "RECSYS_DATABASE_URL": ""}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement")
    parser.add_argument("--home", type=Path, help="a state folder of an earlier run, kept; a new one is thrown away otherwise")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="aihub-bench-") as folder:
        home = (options.home or Path(folder)).resolve()
        logs = Settings().home_path / "logs"
        share_models(home)
        environment = OWN_STORES | {"AIHUB_HOME": str(home)}
        with servers.running_hub(logs / "bench-recsys.log", environment) as hub, servers.running_echo(logs / "echo.log") as echo:
            prepare(home)
            measure(hub, echo, options.seconds)


def prepare(home: Path) -> None:
    """Fill and train the store unless an earlier run has."""
    urls = running_urls(home)
    if urls is None:
        raise SystemExit(f"The hub's database does not run in {home}.")
    if (home / "results").is_dir():
        return
    recsys_shop.fill(urls.database_url, ITEMS)
    recsys_shop.train_factors(urls.database_url, home)


def measure(hub: str, echo: str, seconds: float) -> None:
    """Print a row per kind of request, at `RATE` and one after another."""
    url = f"{hub}/predict/recommendations"
    customers = iter(range(recsys_shop.CUSTOMERS))
    fresh = _bodies(customers, round(RATE * seconds))
    one_by_one = _bodies(customers, 300)
    warm_up = _bodies(customers, WARM_UP)
    small = [json.dumps({"items": [{"item_id": 1000 + rank, "score": 0.5, "rank": rank} for rank in range(10)]}).encode()]
    print(f"{'top 10 of':<12} {ITEMS:,} items{'':<24} {'p50 ms':>8} {'p99 ms':>8} {'errors':>7}  aim p50 / p99", flush=True)
    asyncio.run(load.measure_in_turn(url, warm_up))
    _show("one client, uncached", asyncio.run(load.measure_in_turn(url, one_by_one)))
    _show("one client, cached", asyncio.run(load.measure_in_turn(url, one_by_one)))
    _show("one client, bare FastAPI echo", asyncio.run(load.measure_in_turn(echo, small * len(one_by_one))))
    _show(f"{RATE:.0f}/s, uncached", asyncio.run(load.measure_arrivals(url, fresh, RATE)), "5 / 25")
    _show(f"{RATE:.0f}/s, cached", asyncio.run(load.measure_arrivals(url, fresh, RATE)), "3")
    _show(f"{RATE:.0f}/s, bare FastAPI echo", asyncio.run(load.measure_arrivals(echo, small * len(fresh), RATE)))


def _bodies(customers: Iterator[int], count: int) -> list[bytes]:
    return [json.dumps({"store_id": recsys_shop.STORE, "user_id": next(customers), "n": 10}).encode() for _ in range(count)]


def _show(what: str, found: load.Latencies, aim: str = "") -> None:
    print(f"  {what:<46} {found.percentile_ms(50):>8.2f} {found.percentile_ms(99):>8.2f} {found.errors:>7}  {aim}", flush=True)


def share_models(home: Path) -> None:
    """Let the state folder use the installed models."""
    folder = home / "models"
    folder.mkdir(parents=True, exist_ok=True)
    installed = Settings().models_path
    for model in installed.iterdir() if installed.is_dir() else ():
        if not (folder / model.name).exists():
            (folder / model.name).symlink_to(model)


if __name__ == "__main__":
    main()
