"""The early process, with plain functions in place of vLLM's engine."""

import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from deployments import engine_process
from deployments.engine_process import EarlyContext, EarlyProcess, cpu_environment, describe_cause, one_cpu_per_core, parse_cpus

WAIT_S = 20.0


def write_process_id(path: str) -> None:
    Path(path).write_text(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}", encoding="utf-8")


def fail() -> None:
    try:
        raise ValueError("weights of\nthe wrong shape")
    except ValueError as cause:
        raise RuntimeError("the engine did not start") from cause


@pytest.fixture
def no_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child imports nothing heavy: its target is replaced by one that only waits."""
    monkeypatch.setattr(engine_process, "run_when_told", wait_for_orders)


def wait_for_orders(orders: Connection, _device: str) -> None:
    engine_process._MODULES, engine_process._WORKERS, engine_process._PREPARATIONS = (), {"cpu": ()}, {}
    engine_process.run_when_told(orders, "cpu")


@pytest.mark.usefixtures("no_imports")
class TestEarlyProcess:
    def test_runs_before_it_has_work_and_then_does_what_the_context_says(self, tmp_path: Path) -> None:
        process = EarlyProcess("cpu")
        assert process.is_alive()
        given = EarlyContext(process).Process(target=write_process_id, kwargs={"path": str(tmp_path / "id")}, name="EngineCore")
        assert given is process
        given.start()
        given.join(WAIT_S)
        assert (tmp_path / "id").read_text(encoding="utf-8").split()[0] == str(process.pid)
        assert given.exitcode == 0

    def test_second_process_of_the_context_is_an_ordinary_one(self, tmp_path: Path) -> None:
        early = EarlyProcess("cpu")
        context = EarlyContext(early)
        context.Process(target=write_process_id, kwargs={"path": str(tmp_path / "a")})
        second = context.Process(target=write_process_id, kwargs={"path": str(tmp_path / "b")}, name="second")
        second.start()
        second.join(WAIT_S)
        assert second is not early
        assert (tmp_path / "b").exists()
        early.kill()

    def test_ends_by_itself_when_nobody_will_give_it_work(self) -> None:
        process = EarlyProcess("cpu")
        process._orders.close()
        process.join(WAIT_S)
        assert process.exitcode == 0

    def test_failed_engine_reports_its_innermost_cause(self) -> None:
        process = EarlyProcess("cpu")
        process.assign(fail, {})
        process.start()
        process.join(WAIT_S)
        assert process.causes() == ["ValueError: weights of the wrong shape"]
        assert process.exitcode == 1

    def test_engine_that_fails_after_its_replica_has_ended_still_ends(self) -> None:
        process = EarlyProcess("cpu")
        process.assign(fail, {})
        process.start()
        process._orders.close()
        process.join(WAIT_S)
        assert process.exitcode == 1

    def test_engine_that_was_killed_reports_nothing(self) -> None:
        process = EarlyProcess("cpu")
        process.kill()
        process.join(WAIT_S)
        assert process.causes() == []

    def test_environment_of_the_engine_does_not_stay_in_the_replica(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", str(min(os.sched_getaffinity(0))))
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        process = engine_process.start_early("cpu")
        assert "OMP_NUM_THREADS" not in os.environ
        process.assign(write_process_id, {"path": str(tmp_path / "id")})
        process.start()
        process.join(WAIT_S)
        assert (tmp_path / "id").read_text(encoding="utf-8").split()[1] == "1"


def test_cause_without_words_says_so() -> None:
    assert describe_cause(ValueError()) == "ValueError: no message"


@pytest.mark.parametrize(("text", "cpus"), [("0-2,5", [0, 1, 2, 5]), ("3", [3]), ("0-1|2-3", [0, 1])])
def test_cpus_are_read_in_vllms_notation(text: str, cpus: list[int]) -> None:
    assert parse_cpus(text) == cpus


def test_engine_computes_on_every_core_but_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    threads = int(cpu_environment()["OMP_NUM_THREADS"])
    assert threads == max(len(one_cpu_per_core()) - 1, 1)


def test_threads_are_left_alone_where_the_operator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    assert "OMP_NUM_THREADS" not in cpu_environment()
