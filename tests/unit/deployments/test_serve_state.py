"""States of Serve's applications, read from what its controller tells."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve import context
from ray.serve.schema import ApplicationStatus, ServeInstanceDetails

from deployments.ray_compat import count_running_replicas, read_applications

DETAILS: dict[str, Any] = {
    "applications": {
        "hub": {
            "status": ApplicationStatus.RUNNING,
            "message": "",
            "deployments": {"Ingress": {"message": "", "replicas": [{"state": "RUNNING"}, {"state": "STARTING"}]}},
        },
        "llm-tiny": {"status": "DEPLOY_FAILED", "message": None, "deployments": {"LLM": {"message": "ValueError: no room"}}},
    }
}


def tell(monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    monkeypatch.setattr(context, "_get_global_client", lambda **_options: client)


def test_states_and_messages_are_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, SimpleNamespace(get_serve_details=lambda: DETAILS))
    applications = read_applications()
    assert {name: application.status for name, application in applications.items()} == {
        "hub": "RUNNING",
        "llm-tiny": "DEPLOY_FAILED",
    }
    assert applications["llm-tiny"].message == ""
    assert applications["llm-tiny"].deployments["LLM"].message == "ValueError: no room"
    assert applications["hub"].deployments["Ingress"].replica_states == {"RUNNING": 1, "STARTING": 1}


def test_only_running_replicas_count_as_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, SimpleNamespace(get_serve_details=lambda: DETAILS))
    assert [count_running_replicas(name) for name in ("hub", "llm-tiny", "away")] == [1, 0, 0]


def test_nothing_runs_where_serve_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, None)
    assert read_applications() == {}


def test_ray_still_tells_these_fields() -> None:
    application = ServeInstanceDetails.model_fields["applications"].annotation
    assert {"status", "message", "deployments"} <= set(application.__args__[1].model_fields)
