"""The state of Serve's applications, as the controller tells it.

`serve.status()` builds a whole configuration of each deployment for the same answer: twenty milliseconds, and a `ValueError` when
two threads do so at once, since it lists a module in pickle's globals and takes it out again.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class DeploymentState:
    """One deployment; `replica_states` counts its replicas by state, such as `RUNNING`."""

    message: str
    replica_states: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class ApplicationState:
    """One application; `status` is one of `ray.serve.schema.ApplicationStatus`."""

    status: str
    message: str
    deployments: dict[str, DeploymentState] = field(default_factory=dict)


def read_applications() -> dict[str, ApplicationState]:
    """Ask Serve's controller for every application; none where Serve does not run. Blocking, safe in several threads."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    details: dict[str, Any] = client.get_serve_details() if client is not None else {}
    return {name: _application(told) for name, told in details.get("applications", {}).items()}


def _application(told: dict[str, Any]) -> ApplicationState:
    deployments = {name: _deployment(deployment) for name, deployment in told.get("deployments", {}).items()}
    return ApplicationState(_text(told["status"]), told.get("message") or "", deployments)


def _deployment(told: dict[str, Any]) -> DeploymentState:
    return DeploymentState(told.get("message") or "", Counter(_text(replica["state"]) for replica in told.get("replicas", ())))


def _text(state: Any) -> str:
    """Return the name of a state, which Serve may tell as an enum."""
    return str(getattr(state, "value", state))
