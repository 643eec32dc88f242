"""Ray's own programs at rest: parts of the dashboard on demand, the log monitor's looks."""

import asyncio
import runpy
import sys
import time
from pathlib import Path

import pytest

from deployments import ray_programs
from deployments.ray_programs import PartsOnDemand, rested


class Process:
    def __init__(self) -> None:
        self.lives = True

    def is_alive(self) -> bool:
        return self.lives


class Pipe:
    def poll(self, _timeout_s: float) -> bool:
        time.sleep(0.02)
        return True


class Part:
    """What the dashboard keeps of one part."""

    def __init__(self) -> None:
        self.process: Process | None = None
        self.parent_conn = Pipe()
        self.starts = 0
        self.ready = 0

    def start(self) -> None:
        self.process = Process()
        self.starts += 1

    def wait(self) -> None:
        self.ready += 1

    async def destroy_module(self) -> None:
        self.process = None


def parts(idle_s: float) -> PartsOnDemand:
    return PartsOnDemand(Part.start, Part.wait, idle_s)


async def test_a_part_starts_once_for_requests_that_come_together() -> None:
    part, on_demand = Part(), parts(60.0)

    async def ask() -> int:
        async with on_demand.running(part):
            return part.ready

    assert await asyncio.gather(*(ask() for _ in range(8))) == [1] * 8
    assert part.starts == 1


async def test_a_part_ends_when_nobody_has_asked_for_a_while_and_starts_again() -> None:
    part, on_demand = Part(), parts(0.05)
    async with on_demand.running(part):
        await asyncio.sleep(0.2)
        assert part.process is not None  # a request as long as following a log
    await asyncio.sleep(0.2)
    assert part.process is None
    async with on_demand.running(part):
        assert part.process is not None
    assert part.starts == 2


async def test_a_part_that_died_is_started_for_the_next_request() -> None:
    part, on_demand = Part(), parts(60.0)
    async with on_demand.running(part):
        assert part.process is not None
        part.process.lives = False
    async with on_demand.running(part):
        assert part.process is not None and part.process.is_alive()


async def test_a_request_that_is_cancelled_during_the_start_leaves_the_part_to_the_next_one() -> None:
    part, on_demand = Part(), parts(60.0)

    async def ask() -> None:
        async with on_demand.running(part):
            await asyncio.sleep(60)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with on_demand.running(part):
        assert part.ready == 1


async def test_a_part_can_begin_before_it_is_asked_and_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_programs, "_WRITE_S", 0.1)
    monkeypatch.setattr(ray_programs, "_CHECK_S", 0.02)
    part, on_demand = Part(), parts(60.0)
    on_demand.begin(part)
    async with asyncio.timeout(5):
        while part.ready == 0:  # noqa: ASYNC110 - the stand-in has no event
            await asyncio.sleep(0.01)
        while part.process is not None:  # noqa: ASYNC110 - the stand-in has no event
            await asyncio.sleep(0.01)
    assert part.starts == 1


def test_the_programs_that_rest_run_through_this_module_and_no_others() -> None:
    monitor = [sys.executable, "-u", "/ray/_private/log_monitor.py", "--session-dir=/tmp/s"]
    assert rested(monitor) == [sys.executable, "-u", "-m", "deployments.ray_programs", *monitor[2:]]
    assert rested(["/ray/core/raylet", "--port=0"]) == ["/ray/core/raylet", "--port=0"]


def test_a_program_runs_with_its_own_arguments_and_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    program = tmp_path / "log_monitor.py"
    program.write_text("import sys, time\nassert __name__ == '__main__'\ntime.sleep(0.1)\ntime.sleep(len(sys.argv))\n")
    monkeypatch.setattr(sys, "argv", ["ray_programs", str(program), "--one", "--two"])
    ray_programs.main()
    assert slept == [1.0, 3]


def test_what_is_changed_of_the_dashboard_is_there_in_this_version_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.dashboard.head import DashboardHead
    from ray.dashboard.subprocesses.handle import SubprocessModuleHandle

    names = ("start_module", "wait_for_module_ready", "proxy_request", "destroy_module")
    for owner, name in [*((SubprocessModuleHandle, name) for name in names), (DashboardHead, "_record_dashboard_metrics")]:
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back after the test
    monkeypatch.setattr(runpy, "run_path", lambda program, run_name: None)
    ray_programs.rest_dashboard()
    part = SubprocessModuleHandle(asyncio.new_event_loop(), SubprocessModuleHandle, None)
    part.start_module()
    assert part.process is None
