"""Whether the bills of three tenants add up to what the hub's engines used, and what measuring costs.

A minute of mixed load goes to a hub; meanwhile the processor time of every process that answers requests is read from the
kernel, without the hub's help. On a card its busy time is read from the driver likewise.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.models.store.default_models import select_chat_model, select_embedding_model
from benchmarks import servers
from benchmarks.cost_load import Models, Tenant, run_load
from benchmarks.idle import Usage, find_run_id, read_usage

SECONDS = 60.0
TOLERANCE = 0.03
TENANTS = ("writer", "reader", "embedder")
PRICED_S = 4.0
"""Rows have their costs by then, see `aihub.usage.recorder.PRICE_TIMEOUT_S`."""
ENGINES = ("ServeReplica:hub:", "ServeReplica:llm-", "ServeReplica:embeddings:", "ServeReplica:speech:", "ServeReplica:recsys:")
"""Processes that answer requests; those below them count too."""


@dataclass(frozen=True, slots=True)
class CostReport:
    """Seconds of a core of one run.

    Attributes:
        bills: By tenant, as the hub tells them.
        engines: What the kernel counted for engines, by name of process.
        others: The same for the rest of the hub: proxy, databases, Ray.
        unpriced: Requests without a cost.
        counts: Requests by how they ended.
    """

    bills: dict[str, float]
    engines: Counter[str]
    others: Counter[str]
    unpriced: int
    counts: Counter[str]

    @property
    def ratio(self) -> float:
        """Sum of the bills over what engines used."""
        return sum(self.bills.values()) / self.engines.total()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--url", help="a running hub that nobody else uses; one with a state folder of its own is started otherwise"
    )
    parser.add_argument("--keys", help="with --url: keys of three tenants with commas between, the first of an administrator")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of load")
    parser.add_argument("--no-overhead", action="store_true", help="leave out what measuring costs")
    options = parser.parse_args(arguments)
    if options.url:
        keys = (options.keys or "").split(",")
        if len(keys) != len(TENANTS):
            raise SystemExit("Give --keys: three keys with commas between, made by `aihub keys create --tenant NAME`.")
        compare(options.url, [Tenant(name, key) for name, key in zip(TENANTS, keys, strict=True)], options.seconds)
        return
    with running_hub_with_tenants() as (url, tenants):
        compare(url, tenants, options.seconds)
        if not options.no_overhead:
            from benchmarks import cost_overhead

            cost_overhead.main(url)


@contextmanager
def running_hub_with_tenants() -> Iterator[tuple[str, list[Tenant]]]:
    """Run a hub with a new state folder, which keys must not close for others, and the models of the usual one."""
    settings = Settings()
    with tempfile.TemporaryDirectory(prefix="aihub-cost-") as folder:
        home = Path(folder)
        (home / "models").mkdir()
        for model in settings.models_path.iterdir():
            if model.is_dir():
                (home / "models" / model.name).symlink_to(model)
        environment = {"AIHUB_HOME": folder}
        with servers.running_hub(settings.home_path / "logs" / "bench-cost.log", environment) as url:
            yield url, [create_tenant(name, environment, is_admin=name == TENANTS[0]) for name in TENANTS]


def create_tenant(name: str, environment: dict[str, str], *, is_admin: bool) -> Tenant:
    """Make a tenant of that name with a key, on the machine of the hub."""
    _run(["tenants", "create", name], environment)
    _run(["users", "create", "bench", "--tenant", name, "--role", "admin" if is_admin else "user"], environment)
    options = ["--name", "bench", "--user", "bench", "--tenant", name, "--json"]
    return Tenant(name, json.loads(_run(["keys", "create", *options], environment))["key"])


def _run(command: list[str], environment: dict[str, str]) -> str:
    program = [sys.executable, "-c", "from aihub.cli.main import main; main()"]
    done = subprocess.run([*program, *command], capture_output=True, text=True, env=os.environ | environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"`aihub {' '.join(command[:2])}` failed: {done.stderr.strip()}")
    return done.stdout


def compare(url: str, tenants: list[Tenant], seconds: float) -> None:
    """Print bills and processor time; end with an error where they differ by more than `TOLERANCE`."""
    warm_up(url, tenants)
    report = measure(url, tenants, seconds)
    print(f"\n{seconds:.0f} s of load; seconds of a core")
    for tenant, cpu_s in report.bills.items():
        print(f"  bill of {tenant:<34} {cpu_s:>8.2f}")
    print(f"  {'sum of the bills':<42} {sum(report.bills.values()):>8.2f}")
    for name, cpu_s in report.engines.most_common():
        print(f"  {name:<42} {cpu_s:>8.2f}")
    print(f"  {'engines in all':<42} {report.engines.total():>8.2f}   bills / engines {report.ratio:.4f}")
    print(f"  {'rest of the hub, billed to nobody':<42} {report.others.total():>8.2f}")
    print("  requests:", ", ".join(f"{count} {name}" for name, count in sorted(report.counts.items())), end=" ")
    print(f"({report.unpriced} without a cost)", flush=True)
    if abs(report.ratio - 1) > TOLERANCE:
        raise SystemExit(f"The bills differ from what engines used by more than {TOLERANCE:.0%}.")


def warm_up(url: str, tenants: list[Tenant]) -> None:
    """Let each kind of request happen once before anything is measured, and keys of a minute ago be minded."""
    time.sleep(6.0)
    asyncio.run(run_load(url, tenants, find_models(), 2.0))
    time.sleep(PRICED_S)


def measure(url: str, tenants: list[Tenant], seconds: float) -> CostReport:
    """Put a hub under load, and read what the kernel counts for its processes and what it bills."""
    run_id, began_at = find_run_id(url), datetime.now(UTC)
    before = read_usage(run_id)
    counts = asyncio.run(run_load(url, tenants, find_models(), seconds))
    time.sleep(1.0)  # what was cancelled last has ended
    after = read_usage(run_id)
    unpriced = wait_for_costs(url, tenants[0].key, began_at)
    analytics = read_bills(url, tenants[0].key, began_at)
    engines, others = split_by_part(before, after)
    bills = {str(group["group"]["tenant"]): float(group["cpu_s"] or 0.0) for group in analytics}
    return CostReport(bills, engines, others, unpriced, counts)


def read_bills(url: str, key: str, began_at: datetime) -> list[dict[str, Any]]:
    """Return the figures of each tenant since then."""
    query = {"from": began_at.isoformat(), "group_by": "tenant"}
    answer = httpx.get(f"{url}/api/v1/system/analytics", params=query, headers=_authorization(key), timeout=30)
    groups: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return groups


def wait_for_costs(url: str, key: str, began_at: datetime) -> int:
    """Wait until each request since then has its cost; return how many have none after half a minute."""
    end_s = time.monotonic() + 30.0
    while True:
        time.sleep(PRICED_S)  # the last look is a request, too
        unpriced = count_unpriced(url, key, began_at)
        if not unpriced or time.monotonic() > end_s:
            return unpriced


def count_unpriced(url: str, key: str, began_at: datetime) -> int:
    """Count the requests since then that have no cost."""
    query = {"from": began_at.isoformat()}
    answer = httpx.get(f"{url}/api/v1/system/analytics/export", params=query, headers=_authorization(key), timeout=60)
    header, *rows = [line.split(",") for line in answer.raise_for_status().text.splitlines()]
    return sum(row[header.index("cpu_s")] == "" for row in rows)


def split_by_part(before: dict[int, Usage], after: dict[int, Usage]) -> tuple[Counter[str], Counter[str]]:
    """Return what processes used between two looks: those below engines by the engine's name, and the rest by their own."""
    engines: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for usage in after.values():
        used_s = usage.cpu_s - (before[usage.pid].cpu_s if usage.pid in before else 0.0)
        engine = find_engine(usage, after)
        (others if engine is None else engines)[engine or usage.name] += used_s
    for usage in before.values():
        if usage.pid not in after and (parent := after.get(usage.parent)) is not None:
            # It has ended: its parent is charged for its whole life, and this much of that was before.
            engine = find_engine(parent, after)
            (others if engine is None else engines)[engine or parent.name] -= usage.cpu_s
    return engines, others


def find_engine(usage: Usage | None, processes: dict[int, Usage]) -> str | None:
    """Return the name of the engine that a process is, or lies below; None for others."""
    while usage is not None:
        if usage.name.startswith(ENGINES):
            return usage.name
        usage = processes.get(usage.parent)
    return None


def find_models() -> Models:
    """Return the default models."""
    settings = Settings()
    profile = load_profile(settings.profile)
    return Models(select_chat_model(settings, profile).model_id, select_embedding_model(settings, profile).model_id)


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


if __name__ == "__main__":
    main()
