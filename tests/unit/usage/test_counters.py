"""Processor time of real processes, those that have ended included."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from aihub.usage import counters
from aihub.usage.counters import ProcessCounters, ProcessTree

BURN = "import time\nwhile time.process_time() < {seconds}: pass\n"
GRANDCHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def run(code: str, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_children_count_while_they_run_after_they_have_ended_and_with_their_own_children() -> None:
    tree = ProcessTree()
    before_s, _ = tree.read()
    with run(BURN.format(seconds=0.2) + "print(flush=True); input()") as child:
        assert child.stdout is not None
        child.stdout.readline()
        running_s, process_ids = tree.read()
        assert process_ids[0] == os.getpid()
        assert child.pid in process_ids
        child.communicate(b"\n")
    ended_s, _ = tree.read()
    with run(GRANDCHILD, BURN.format(seconds=0.2)) as child:
        child.communicate()
    last_s, _ = tree.read()
    assert 0.15 < running_s - before_s < 0.6
    assert running_s <= ended_s < running_s + 0.3
    assert 0.2 <= last_s - ended_s < 0.9


def test_own_time_is_that_of_all_threads_and_not_of_the_wall() -> None:
    reader = ProcessCounters()
    before_s = reader.own_cpu_s()
    time.sleep(0.05)
    asleep_s = reader.own_cpu_s() - before_s
    ended_s = time.process_time() + 0.05
    while time.process_time() < ended_s:
        pass
    assert asleep_s < 0.04
    assert reader.own_cpu_s() - before_s >= 0.05


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    values: list[float] = []
    monkeypatch.setattr(counters, "read_tree", lambda: (values.pop(0), []))
    return values


def test_a_child_that_ends_between_two_reads_is_not_counted_twice(readings: list[float]) -> None:
    readings += [10.0, 7.0, 11.0]
    tree = ProcessTree()
    assert [tree.read()[0] for _ in range(3)] == [10.0, 10.0, 11.0]


def test_counting_goes_on_after_a_child_that_nobody_waited_for(readings: list[float]) -> None:
    readings += [10.0, 4.0, 4.5, 6.0]
    tree = ProcessTree()
    assert [tree.read()[0] for _ in range(4)] == [10.0, 10.0, 10.0, 11.5]
