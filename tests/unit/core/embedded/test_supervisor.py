"""How the supervisor waits: for news, not by the clock."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from aihub.core.embedded.stores import EmbeddedStores
from tests.embedded_parts import servers_of
from tests.external_servers import wait_until

ROOT = Path(__file__).resolve().parents[4]
WAIT_FOR_CHILD = (
    "import subprocess, time; from aihub.core.embedded.supervisor import Parent\n"
    "parent = Parent(); child = subprocess.Popen(['sleep', '0.3']); started = time.monotonic()\n"
    "print(parent.is_done(30), child.poll(), time.monotonic() - started, flush=True)\n"
    "print(parent.is_done(0), flush=True)"
)


def test_end_of_a_server_ends_the_wait_at_once() -> None:
    words = [sys.executable, "-c", WAIT_FOR_CHILD]
    process = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        is_done, exit_code, waited_s = process.stdout.readline().split()
        assert (is_done, exit_code) == ("False", "0")
        assert 0.2 < float(waited_s) < 15
        assert process.stdout.readline() == "False\n"
    finally:
        process.kill()
        process.communicate()


def test_idle_supervisor_and_redis_wake_at_most_three_times_a_second_together() -> None:
    home = Path(tempfile.mkdtemp(prefix="aihub-emb-"))
    stores = EmbeddedStores(home)
    try:
        stores.start()
        watched = [psutil.Process(pid) for pid in servers_of(home)]
        watched = [process for process in watched if "postgres" not in process.name()]
        assert len(watched) == 2
        time.sleep(1)
        before = sum(process.num_ctx_switches().voluntary for process in watched)
        time.sleep(5)
        assert sum(process.num_ctx_switches().voluntary for process in watched) - before <= 15
    finally:
        stores.stop()
        wait_until(lambda: servers_of(home) == [], 5, "the end of all servers")
        shutil.rmtree(home)
