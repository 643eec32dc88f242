"""What a hub costs while nobody asks: processor time and memory of each of its processes, with and without a chat model.

Processor time is what the kernel charged in the window, ended children included. Memory is resident memory less pages
shared with others, as the hub's own ledger counts it; PSS, which splits shared pages among their users, stands beside it.
"""

import argparse
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from aihub.cli import serve as processes
from aihub.core.hub_requests import hub_headers
from aihub.core.settings import Settings
from benchmarks import servers

SETTLE_S = 60.0
WINDOW_S = 60.0
UNLOAD_TIMEOUT_S = 120.0
GOAL_CPU_PERCENT = 8.0
GOAL_BYTES = {True: 4.0e9, False: 2.5e9}
"""Resident less shared, with the default chat model loaded and without one."""
_SHOWN_CPU_PERCENT = 0.1
_SHOWN_BYTES = 20e6
_RAY_TITLE = re.compile(r"ray::(?P<name>[\w:.-]+)")
_PYTHON_MODULE = re.compile(r"-m (?P<name>[\w.]+)|-c from (?P<helper>multiprocessing\.\w+)")


@dataclass(frozen=True, slots=True)
class Usage:
    """One process: seconds of a core so far (those of its ended children included) and bytes held now."""

    pid: int
    parent: int
    name: str
    cpu_s: float
    private_bytes: int
    pss_bytes: int


@dataclass(frozen=True, slots=True)
class IdleCost:
    """Percent of one core over the window and bytes at its end, by name of process."""

    cpu_percent: Counter[str]
    private_bytes: Counter[str]
    pss_bytes: Counter[str]
    processes: Counter[str]
    other_cpu_percent: float
    """What the rest of the machine used meanwhile."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running hub, measured as it is; one is started otherwise, and measured with and without")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds of quiet before each measurement")
    parser.add_argument("--window", type=float, default=WINDOW_S, help="seconds of each measurement")
    options = parser.parse_args(arguments)
    if options.url:
        measure(options.url, settle_s=options.settle, window_s=options.window)
        return
    with servers.running_hub(Settings().home_path / "logs" / "bench-idle.log") as url:
        measure(url, settle_s=options.settle, window_s=options.window)
        unload_all(url)
        measure(url, settle_s=options.settle, window_s=options.window)


def measure(url: str, *, settle_s: float, window_s: float) -> None:
    """Print the cost of the hub that answers at `url`, without asking it anything meanwhile."""
    loaded = loaded_models(url)
    time.sleep(settle_s)
    load = os.getloadavg()[0]
    cost = measure_cost(find_run_id(url), window_s)
    with_model = f"with {', '.join(loaded)}" if loaded else "without a chat model"
    print(f"\nidle hub {with_model}, {window_s:.0f} s; load of the machine before {load:.2f},", end=" ")
    print(f"other work meanwhile {cost.other_cpu_percent:.1f} % of a core")
    print(f"{'':<44} {'number':>6} {'% of a core':>11} {'private MB':>11} {'PSS MB':>8}")
    shown = [name for name in cost.processes if _is_shown(cost, name)]
    for name in sorted(shown, key=lambda name: (-cost.cpu_percent[name], -cost.private_bytes[name])):
        _show(name, cost, [name])
    _show("others", cost, [name for name in cost.processes if name not in shown])
    _show("in all", cost, list(cost.processes))
    print(f"{'goal':<44} {'':>6} {GOAL_CPU_PERCENT:>11.1f} {GOAL_BYTES[bool(loaded)] / 1e6:>11.0f}", flush=True)


def measure_cost(run_id: str, window_s: float) -> IdleCost:
    """Watch every process of a run for `window_s`."""
    machine, before, began_s = _busy_s(), read_usage(run_id), time.monotonic()
    time.sleep(window_s)
    after, busy_s, elapsed_s = read_usage(run_id), _busy_s() - machine, time.monotonic() - began_s
    cpu_s: Counter[str] = Counter()
    for usage in after.values():
        cpu_s[usage.name] += usage.cpu_s - (before[usage.pid].cpu_s if usage.pid in before else 0.0)
    for usage in before.values():
        if usage.pid not in after and usage.parent in after:
            # It has ended: its parent is charged for its whole life, and this much of that was before the window.
            cpu_s[after[usage.parent].name] -= usage.cpu_s
    return IdleCost(
        Counter({name: 100 * seconds / elapsed_s for name, seconds in cpu_s.items()}),
        _sum_by_name((usage.name, usage.private_bytes) for usage in after.values()),
        _sum_by_name((usage.name, usage.pss_bytes) for usage in after.values()),
        Counter(usage.name for usage in after.values()),
        100 * (busy_s - sum(cpu_s.values())) / elapsed_s,
    )


def read_usage(run_id: str) -> dict[int, Usage]:
    """Return every live process of a run by its id; the embedded servers clear their environment, their parents do not."""
    found = {process.pid: process for process in processes.find_run(run_id)}
    for process in list(found.values()):
        try:
            found |= {child.pid: child for child in process.children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    usages = {}
    for process in found.values():
        try:
            with process.oneshot():
                times, memory = process.cpu_times(), process.memory_full_info()
                cpu_s = times.user + times.system + times.children_user + times.children_system
                private_bytes = max(memory.rss - memory.shared, 0)
                usages[process.pid] = Usage(process.pid, process.ppid(), name_of(process), cpu_s, private_bytes, memory.pss)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return usages


def name_of(process: psutil.Process) -> str:
    """Return what a process of a hub is called in the table."""
    words = process.cmdline() or [process.name()]
    line = " ".join(words).strip()
    if found := _RAY_TITLE.match(line):
        return found.group("name")
    if line.startswith("VLLM::"):
        return words[0].split()[0]
    if found := _PYTHON_MODULE.search(line):
        return found.group("name") or found.group("helper")
    if "postgres" in process.name():
        return "postgres"
    if "python" in Path(words[0]).name and len(words) > 1:
        script = next((word for word in words[1:] if not word.startswith("-")), words[0])
        return Path(script).stem if script != words[0] else process.name()
    return Path(words[0].split()[0]).name.rstrip(":")


def find_run_id(url: str) -> str:
    """Return `AIHUB_RUN_ID` of the process that listens at `url`."""
    port = urlsplit(url).port
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid is not None:
            if run_id := psutil.Process(connection.pid).environ().get(processes.RUN_ID_VARIABLE):
                return run_id
    raise SystemExit(f"No process of a hub that `aihub serve` started listens at {url} on this machine.")


def loaded_models(url: str) -> list[str]:
    """Return the local models that are in memory."""
    models = httpx.get(f"{url}/api/v1/models", headers=hub_headers(), timeout=30).raise_for_status().json()["data"]["models"]
    return [model["model_id"] for model in models if model["state"] not in {"unloaded", "failed"}]


def unload_all(url: str) -> None:
    """Take every local model out of memory."""
    for model_id in loaded_models(url):
        body = {"model_id": model_id}
        httpx.post(f"{url}/api/v1/models/unload", json=body, headers=hub_headers(), timeout=UNLOAD_TIMEOUT_S).raise_for_status()


def _sum_by_name(pairs: Iterable[tuple[str, int]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for name, size in pairs:
        sums[name] += size
    return sums


def _is_shown(cost: IdleCost, name: str) -> bool:
    return cost.cpu_percent[name] >= _SHOWN_CPU_PERCENT or cost.private_bytes[name] >= _SHOWN_BYTES


def _show(title: str, cost: IdleCost, names: Sequence[str]) -> None:
    number, percent = sum(cost.processes[name] for name in names), sum(cost.cpu_percent[name] for name in names)
    private_mb, pss_mb = (sum(sizes[name] for name in names) / 1e6 for sizes in (cost.private_bytes, cost.pss_bytes))
    print(f"{title:<44} {number:>6} {percent:>11.2f} {private_mb:>11.0f} {pss_mb:>8.0f}")


def _busy_s() -> float:
    """Seconds that all cores together have been busy."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


if __name__ == "__main__":
    main()
