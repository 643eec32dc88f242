from types import SimpleNamespace

import pytest

from deployments.engine_failure import (
    EngineCannotStartError,
    EngineStartError,
    can_pass,
    engine_error,
    innermost_cause,
    reason_of,
)

RAY_WRAPPED = """A replica failed to start with exception. Retrying 1 more time(s). Error:
ray::ServeReplica:llm-a:LLM.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
RuntimeError: Traceback (most recent call last):
  File "llm.py", line 1, in __init__
ValueError: Cannot schedule RayWorkerProc

The above exception was the direct cause of the following exception:

deployments.engine_failure.{name}: ValueError: Cannot schedule RayWorkerProc with the placement group
"""
PENDING = (
    "Deployment 'LLM:a' in application 'llm-a' has 1 replicas that have taken more than 30s to be scheduled. "
    "Resources required for each replica: {'GPU': 0.01}, total resources available: {'CPU': 8.0}."
)


def application(*messages: str, status: str = "DEPLOY_FAILED") -> SimpleNamespace:
    own, *others = messages
    deployments = {str(index): SimpleNamespace(message=message) for index, message in enumerate(others)}
    return SimpleNamespace(status=status, message=own, deployments=deployments)


def test_reason_is_the_engines_own_and_not_serves_summary() -> None:
    told = RAY_WRAPPED.format(name="EngineCannotStartError")
    failed = application("Failed to update the deployments ['LLM:a'].", told)
    assert reason_of(failed) == "ValueError: Cannot schedule RayWorkerProc with the placement group"


def test_reason_of_a_foreign_replica_is_its_last_error() -> None:
    told = "Error:\nray.exceptions.RayTaskError(RuntimeError): x\nRuntimeError: Traceback\nValueError: no such table"
    assert reason_of(application("Failed to update the deployments ['Hub'].", told)) == "ValueError: no such table"


def test_reason_without_any_error_is_the_last_line_and_never_empty() -> None:
    assert reason_of(application("one\ntwo", "")) == "two"
    assert reason_of(application("", "")) == "Serve gives no reason"
    assert innermost_cause("nothing wrong") is None


@pytest.mark.parametrize("kind", ["ValueError", "FileNotFoundError", "torch.OutOfMemoryError", "NotImplementedError"])
def test_error_of_the_model_itself_cannot_pass(kind: str) -> None:
    error = engine_error(f"{kind}: x")
    assert type(error) is EngineCannotStartError
    assert not can_pass(f"deployments.engine_failure.{type(error).__name__}: {error}")


@pytest.mark.parametrize("cause", ["TimeoutError: x", "OSError: x", "RuntimeError: Engine core died"])
def test_error_of_the_moment_may_pass(cause: str) -> None:
    error = engine_error(cause)
    assert type(error) is EngineStartError
    assert can_pass(f"deployments.engine_failure.{type(error).__name__}: {error}")


def test_replica_that_no_node_can_hold_does_not_wait_for_ever() -> None:
    assert not can_pass(PENDING)
    assert "GPU" in reason_of(application("", PENDING))
