"""What the check of a known key costs a request: `python -m benchmarks.key_check`.

In one process, on an embedded PostgreSQL: reading the header, finding the key and the route's rule, and making the record. A hub
without keys is the peer.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from starlette.types import Scope

from aihub.accounts.authenticator import KeyAuthenticator
from aihub.accounts.requests import KeyRequest
from aihub.accounts.tables.api_keys import ApiKeyTable
from aihub.core.embedded.stores import EmbeddedStores
from aihub.core.migrate import upgrade
from aihub.core.postgres import Database
from aihub.core.request_record import RequestRecord
from aihub.http.authentication import refuse_caller
from aihub.http.services import NoLimits

REQUESTS = 2_000
ROUTES = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/predict/trending"),
    ("GET", "/v1/vector_stores/vs_1/files/file_1/content"),
    ("GET", "/models/update/hf:Qwen/Qwen2.5-0.5B-Instruct"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="aihub-keys-") as home:
        stores = EmbeddedStores(Path(home))
        try:
            url = stores.start().database_url
            upgrade(url)
            asyncio.run(_measure(url, rounds))
        finally:
            stores.stop()


async def _measure(url: str, rounds: int) -> None:
    database = Database(url, pool_size=2)
    await database.open()
    open_hub, closed_hub = (KeyAuthenticator(database, is_local=is_local) for is_local in (True, False))
    unkeyed_us = [await _measure_us(open_hub, method, path, [], rounds) for method, path in ROUTES]
    key = (await ApiKeyTable(database).create(KeyRequest(name="bench"))).key
    headers = [(b"authorization", f"Bearer {key.text}".encode())]
    keyed_us = [await _measure_us(closed_hub, method, path, headers, rounds) for method, path in ROUTES]
    print(f"{f'microseconds a request, median of {rounds} rounds':<62} {'with a key':>10} {'open hub':>10}")
    for (method, path), keyed, unkeyed in zip(ROUTES, keyed_us, unkeyed_us, strict=True):
        print(f"{f'{method} {path}':<62} {keyed:>10.1f} {unkeyed:>10.1f}")
    await asyncio.gather(open_hub.close(), closed_hub.close())
    await database.close()


async def _measure_us(
    authenticator: KeyAuthenticator, method: str, path: str, headers: list[tuple[bytes, bytes]], rounds: int
) -> float:
    """Microseconds a request, the median of rounds of `REQUESTS` each."""
    found_us = []
    for _ in range(rounds):
        began_s = time.perf_counter()
        for _ in range(REQUESTS):
            scope: Scope = {"type": "http", "method": method, "path": path, "headers": [*headers, (b"host", b"localhost")]}
            if await refuse_caller(scope, authenticator, NoLimits(), RequestRecord()) is not None:
                raise SystemExit(f"{method} {path} was refused.")
        found_us.append(1e6 * (time.perf_counter() - began_s) / REQUESTS)
    return statistics.median(found_us)


if __name__ == "__main__":
    main()
