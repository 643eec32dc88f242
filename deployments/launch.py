"""`python -m deployments.launch serve_config.yaml`: refuse typos in the file, then do what `serve run` does.

While the applications start, a thread prints one `DeployFailed:` line for an application that cannot, since Ray itself goes on
waiting; `aihub serve` reads it.
"""

import functools
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from aihub.errors import ConfigurationError, HubError
from aihub.settings import Settings
from deployments.ray_programs import rested

POLL_S = 2.0
DASHBOARD_MODULES = frozenset({
    "DataHead", "EventHead", "JobHead", "MetricsHead", "NodeHead", "ReportHead", "ServeHead", "StateHead", "TrainHead",
    "UsageStatsHead",
})  # fmt: skip


def main() -> None:
    """Check the Serve config strictly and hand it to Ray's own command."""
    from ray.serve.scripts import cli

    from deployments.serve_config import check_serve_config

    path = Path(sys.argv[1])
    try:
        config = check_serve_config(path)
        choose_dashboard_modules(Settings().dashboard_modules)
    except HubError as error:
        sys.exit(f"{type(error).__name__}: {error.message}")
    _let_ray_choose_the_agent_port()
    # This process has read it by now. Ray's helpers have not: its autoscaler tells every five seconds how long it took.
    os.environ["RAY_LOGGER_LEVEL"] = "warning"
    names = {application.name for application in config.applications}
    threading.Thread(target=report_failures, args=(names,), daemon=True).start()
    cli(["run", str(path)])


def _let_ray_choose_the_agent_port() -> None:
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


def report_failures(names: set[str]) -> None:
    """Print the reason of the first of these applications that fails to deploy, then end; end too once all run."""
    import ray

    from deployments.engine_failure import reason_of
    from deployments.serve_state import read_applications

    while True:
        time.sleep(POLL_S)
        if not ray.is_initialized():
            continue
        applications = read_applications()
        for name, status in applications.items():
            if status.status == "DEPLOY_FAILED":
                print(f"DeployFailed: application {name!r}: {reason_of(status)}", flush=True)  # noqa: T201  # read by `aihub serve`
                return
        if all(name in applications and applications[name].status == "RUNNING" for name in names):
            return


if __name__ == "__main__":
    main()
