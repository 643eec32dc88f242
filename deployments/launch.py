"""`python -m deployments.launch serve_config.yaml`: refuse typos in the file, then do what `serve run` does.

While the applications start, a thread prints one `DeployFailed:` line for an application that cannot, since Ray itself goes on
waiting; `aihub serve` reads it.
"""

import functools
import sys
import threading
import time
from pathlib import Path

from aihub.errors import HubError

POLL_S = 2.0


def main() -> None:
    """Check the Serve config strictly and hand it to Ray's own command."""
    from ray.serve.scripts import cli

    from deployments.serve_config import check_serve_config

    path = Path(sys.argv[1])
    try:
        config = check_serve_config(path)
    except HubError as error:
        sys.exit(f"{type(error).__name__}: {error.message}")
    _let_ray_choose_the_agent_port()
    names = {application.name for application in config.applications}
    threading.Thread(target=report_failures, args=(names,), daemon=True).start()
    cli(["run", str(path)])


def _let_ray_choose_the_agent_port() -> None:
    """Ray's job agent wants one fixed port, and without it no training starts: a second hub on the machine could never train."""
    from ray._private.parameter import RayParams

    RayParams.__init__ = functools.partialmethod(RayParams.__init__, dashboard_agent_listen_port=None)


def report_failures(names: set[str]) -> None:
    """Print the reason of the first of these applications that fails to deploy, then end; end too once all run."""
    import ray
    from ray import serve

    from deployments.engine_failure import reason_of

    while True:
        time.sleep(POLL_S)
        if not ray.is_initialized():
            continue
        applications = serve.status().applications
        for name, status in applications.items():
            if status.status == "DEPLOY_FAILED":
                print(f"DeployFailed: application {name!r}: {reason_of(status)}", flush=True)  # noqa: T201  # read by `aihub serve`
                return
        if all(name in applications and applications[name].status == "RUNNING" for name in names):
            return


if __name__ == "__main__":
    main()
