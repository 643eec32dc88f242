"""What recording costs a request, and how long figures over many rows take.

Prints p50 and p99 of an echo behind the hub's edge with and without recording, in interleaved rounds of one run, and the time of
each kind of analytics over a month of `--rows` requests of twenty tenants.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import psycopg

from aihub.core.embedded.stores import EmbeddedStores
from aihub.core.migrate import upgrade
from aihub.core.postgres import Database
from aihub.usage.recorder import FLUSH_PERIOD_S
from aihub.usage.schemas import Group
from aihub.usage.tables.usage_figures import Selection, UsageFiguresTable
from benchmarks import load, servers

ROUNDS, REQUESTS = 10, 500
DAYS = 30
BODY = b'{"store_id": 1}'

_INSERT = """
    INSERT INTO usage_records
    SELECT 'tenant-' || (i %% 20), now() - (%(rows)s - i) * %(days)s * interval '1 day' / %(rows)s, 'req_' || md5(i::text),
        'key_' || (i %% 100), 'usr_' || (i %% 60), (ARRAY['POST /v1/chat/completions', 'POST /v1/embeddings'])[1 + i %% 2],
        (ARRAY['chat', 'embeddings'])[1 + i %% 2], 'mô-hình-' || (i %% 12), 'local', i %% 2 = 0, (random() * 500)::int,
        (random() * 200)::int, greatest(random() * 500 - 450, 0), random() * 1000, CASE WHEN i %% 2 = 0 THEN random() * 300 END,
        exp(random() * 8), CASE WHEN random() < 0.02 THEN 500 ELSE 200 END, '', (ARRAY['off', 'hit', 'miss'])[1 + i %% 3],
        random(), random(), NULL
    FROM generate_series(1, %(rows)s) AS i
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows: int = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="aihub-bench-") as folder:
        stores = EmbeddedStores(Path(folder) / "home")
        dsn = stores.start().database_url
        try:
            upgrade(dsn)
            print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
            measure_recording(dsn, Path(folder))
            fill(dsn, rows)
            asyncio.run(measure_figures(dsn))
        finally:
            stores.stop()


def measure_recording(dsn: str, logs: Path) -> None:
    """Post to two servers in turn, one of which records."""
    with echo(logs / "plain.log", {}) as plain, echo(logs / "recording.log", {"ECHO_DSN": dsn}) as recording:
        rounds: dict[str, list[load.Latencies]] = {plain: [], recording: []}
        for _ in range(ROUNDS + 1):
            for url, found in rounds.items():
                found.append(asyncio.run(load.measure_in_turn(f"{url}/predict/trending", [BODY] * REQUESTS)))
        time.sleep(2 * FLUSH_PERIOD_S)
        for name, url in (("without recording", plain), ("with recording", recording)):
            kept = rounds[url][1:]  # the first warms up
            p50, p99 = (statistics.median(item.percentile_ms(percent) for item in kept) for percent in (50, 99))
            print(f"echo {name:<18} p50 {p50:.3f} ms, p99 {p99:.3f} ms, {sum(item.errors for item in kept)} errors")
    with psycopg.connect(dsn) as connection:
        written = connection.execute("SELECT count(*) FROM usage_records").fetchone()
        print(f"rows written: {written[0] if written else 0} of {(ROUNDS + 1) * REQUESTS}")


@contextmanager
def echo(log: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run `benchmarks.usage_echo` on a free port; yield its address."""
    port = servers.free_port()
    command = [sys.executable, "-m", "benchmarks.usage_echo", str(port)]
    with servers.running_process(command, log, environment, f"http://127.0.0.1:{port}/health") as url:
        yield url.removesuffix("/health")


def fill(dsn: str, rows: int) -> None:
    """Make a month of rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE usage_records")
        started_s = time.perf_counter()
        connection.execute(_INSERT, {"rows": rows, "days": DAYS})
        connection.execute("ANALYZE usage_records")
        sizes = connection.execute(
            "SELECT pg_size_pretty(pg_table_size('usage_records')), pg_size_pretty(pg_indexes_size('usage_records'))"
        ).fetchone()
        table_size, index_size = sizes or ("?", "?")
        print(f"{rows:,} rows made in {time.perf_counter() - started_s:.1f} s: table {table_size}, indexes {index_size}")


async def measure_figures(dsn: str) -> None:
    """Time each group over all rows, and a week and a tenant alone; of two tries the slower counts."""
    database = Database(dsn, timeout_s=60.0)
    await database.open()
    table = UsageFiguresTable(database)
    end = datetime.now(UTC) + timedelta(days=1)
    everything = Selection(end - timedelta(days=DAYS + 2), end)
    week = Selection(end - timedelta(days=8), end)
    tenant = Selection(everything.begin, end, "tenant-3")
    asked: list[tuple[str, Selection, list[Group]]] = [("no group", everything, [])]
    asked += [(name, everything, [name]) for name in get_args(Group)]
    asked += [("day, model, key", everything, ["day", "model", "key"]), ("model, a week", week, ["model"])]
    asked += [("day, one tenant", tenant, ["day"])]
    for what, selection, group_by in asked:
        times_s = []
        for _ in range(2):
            started_s = time.perf_counter()
            found = await table.figures(selection, group_by, most=100_000)
            times_s.append(time.perf_counter() - started_s)
        print(f"figures by {what:<16} of {found[0]['requests']:>9,} rows: {max(times_s):.2f} s, {len(found) - 1} groups")
    await database.close()


if __name__ == "__main__":
    main()
