"""What the hub touches of Ray's private names, in one place: an upgrade that moves one is mended here."""

import asyncio
import functools
import uuid
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
from ray.experimental.internal_kv import _internal_kv_get
from ray.serve._private.constants import SERVE_NAMESPACE

from aihub.core.errors import ConfigurationError
from aihub.core.job_server import JobServerError
from deployments.ray_programs import rested


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

    # `serve.status()` builds a whole configuration of each deployment for the same answer: twenty milliseconds, and a
    # `ValueError` when two threads do so at once, since it lists a module in pickle's globals and takes it out again.
    client = _get_global_client(raise_if_no_controller_running=False)
    details: dict[str, Any] = client.get_serve_details() if client is not None else {}
    return {name: _application(told) for name, told in details.get("applications", {}).items()}


def count_running_replicas(app_name: str) -> int:
    """Count the replicas of an application that Serve's controller takes for running; blocking."""
    application = read_applications().get(app_name)
    if application is None:
        return 0
    return sum(deployment.replica_states["RUNNING"] for deployment in application.deployments.values())


def read_replica_names(app_name: str) -> list[str]:
    """Return the actors of an application's replicas that run; blocking."""
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    details: dict[str, Any] = client.get_serve_details() if client is not None else {}
    deployments = details.get("applications", {}).get(app_name, {}).get("deployments", {})
    replicas = [replica for told in deployments.values() for replica in told.get("replicas", ())]
    return [replica["actor_name"] for replica in replicas if _text(replica["state"]) == "RUNNING"]


async def call_replicas(actor_names: Collection[str], method: str, *args: Any) -> list[Any]:
    """Call a quick method on each of these replicas; what one that has ended would answer is left out.

    Serve's handles choose a replica themselves. Ray's own LLM library broadcasts in this way.
    """
    from ray.exceptions import RayActorError
    from ray.serve._private.common import RequestMetadata

    async def call(actor_name: str) -> list[Any]:
        call_id = uuid.uuid4().hex
        metadata = RequestMetadata(request_id=call_id, internal_request_id=call_id, call_method=method)
        try:
            actor = await asyncio.to_thread(ray.get_actor, actor_name, namespace=SERVE_NAMESPACE)
            return [await actor.handle_request.remote(ray.cloudpickle.dumps(metadata), *args)]
        except (RayActorError, ValueError):
            return []

    answers = await asyncio.gather(*(call(actor_name) for actor_name in actor_names))
    return [answer for told in answers for answer in told]


def _application(told: dict[str, Any]) -> ApplicationState:
    deployments = {name: _deployment(deployment) for name, deployment in told.get("deployments", {}).items()}
    return ApplicationState(_text(told["status"]), told.get("message") or "", deployments)


def _deployment(told: dict[str, Any]) -> DeploymentState:
    return DeploymentState(told.get("message") or "", Counter(_text(replica["state"]) for replica in told.get("replicas", ())))


def _text(state: Any) -> str:
    """Return the name of a state, which Serve may tell as an enum."""
    return str(getattr(state, "value", state))


DASHBOARD_MODULES = frozenset({
    "DataHead", "EventHead", "JobHead", "MetricsHead", "NodeHead", "ReportHead", "ServeHead", "StateHead", "TrainHead",
    "UsageStatsHead",
})  # fmt: skip


def let_ray_choose_the_agent_port() -> None:
    """Ray's job agent wants one fixed port, and without it no training starts: a second hub on the machine could never train."""
    from ray._private.parameter import RayParams

    RayParams.__init__ = functools.partialmethod(RayParams.__init__, dashboard_agent_listen_port=None)


def choose_dashboard_modules(modules: str) -> None:
    """Let the dashboard have these parts only, each while it is asked; its own program takes them, but nothing passes them on.

    Args:
        modules: Names with commas between, or `all`, which run all the time. Trainings need `JobHead`, which is added.

    Raises:
        ConfigurationError: The dashboard has no such part.
    """
    from ray._private import ray_constants, services

    if modules == "all":
        return
    chosen = {name.strip() for name in modules.split(",") if name.strip()} | {"JobHead"}
    if unknown := chosen - DASHBOARD_MODULES:
        raise ConfigurationError(
            f"AIHUB_DASHBOARD_MODULES: the dashboard has no {', '.join(sorted(unknown))}. "
            f"Choose from {', '.join(sorted(DASHBOARD_MODULES))}, or say all."
        )
    option = f"--modules-to-load={','.join(sorted(chosen))}"
    start = services.start_ray_process

    def start_rested(command: list[str], process_type: str, *args: Any, **options: Any) -> Any:
        is_dashboard = process_type == ray_constants.PROCESS_TYPE_DASHBOARD
        return start(rested([*command, option] if is_dashboard else command), process_type, *args, **options)

    services.start_ray_process = start_rested


# Inside a worker the client's own guess is the default port, whatever the dashboard's really is.
def find_job_server() -> str:
    address = _internal_kv_get(DASHBOARD_ADDRESS.encode(), namespace=KV_NAMESPACE_DASHBOARD)
    if address is None:
        raise JobServerError("this cluster has no dashboard, and so no job server")
    return f"http://{address.decode()}"


def read_listen_host() -> str:
    # Ray tells it nowhere else inside the cluster.
    from ray.serve.context import _get_global_client

    client = _get_global_client()
    assert client is not None  # noqa: S101  # it raises where there is no controller
    return client.http_config.host or ""
