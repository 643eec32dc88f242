"""`python -m deployments.launch serve_config.yaml`: refuse typos in the file, then do what `serve run` does.

Ray accepts unknown keys silently at several levels, so a typo would be lost. While the applications start, a thread prints one
`DeployFailed:` line for an application that cannot, since Ray itself goes on waiting; `aihub serve` reads it.
"""

import os
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from aihub.core.errors import ConfigurationError, HubError
from aihub.core.settings import Settings
from deployments.app import AppArgs
from deployments.ray_compat import choose_dashboard_modules, let_ray_choose_the_agent_port
from deployments.stores import keep_stores

POLL_S = 2.0


def main() -> None:
    """Check the Serve config strictly and hand it to Ray's own command."""
    from ray.serve.scripts import cli

    path = Path(sys.argv[1])
    try:
        settings = Settings()
        config = check_serve_config(path)
        choose_dashboard_modules(settings.dashboard_modules)
        stores = keep_stores(settings)  # as long as this process lives, which is as long as the cluster
    except HubError as error:
        sys.exit(f"{type(error).__name__}: {error.message}")
    let_ray_choose_the_agent_port()
    # This process has read it by now. Ray's helpers have not: its autoscaler tells every five seconds how long it took.
    os.environ["RAY_LOGGER_LEVEL"] = "warning"
    names = {application.name for application in config.applications}
    threading.Thread(target=report_failures, args=(names,), daemon=True).start()
    try:
        cli(["run", str(path)])
    finally:
        if stores is not None:
            stores.stop()


def report_failures(names: set[str]) -> None:
    """Print the reason of the first of these applications that fails to deploy, then end; end too once all run."""
    import ray

    from deployments.engine_state import reason_of
    from deployments.ray_compat import read_applications

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


def check_serve_config(path: Path) -> ServeDeploySchema:
    """Validate the file, refusing keys that no level of Ray's schema knows.

    Raises:
        ConfigurationError: The file is not YAML, has an unknown key or a wrong value; the message names each.
    """
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path.name} is not valid YAML: {error}") from error
    unknown = list(_unknown_keys(ServeDeploySchema, document, ""))
    if unknown:
        raise ConfigurationError(f"{path.name} has unknown keys: {', '.join(unknown)}. Check the spelling.")
    try:
        config: ServeDeploySchema = ServeDeploySchema.model_validate(document)
        for application in config.applications:
            AppArgs.model_validate(application.args)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{path.name} is wrong: {problems}.") from error
    return config


def _unknown_keys(schema: type[BaseModel], document: Any, prefix: str) -> list[str]:
    if not isinstance(document, dict):
        return []
    found: list[str] = []
    for key, value in document.items():
        field = schema.model_fields.get(key)
        if field is None:
            found.append(f"{prefix}{key}")
            continue
        for nested in _models_in(field.annotation):
            items = value if isinstance(value, list) else [value]
            for index, item in enumerate(items):
                where = f"{prefix}{key}[{index}]." if isinstance(value, list) else f"{prefix}{key}."
                found += _unknown_keys(nested, item, where)
    return found


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {Union, types.UnionType, list}:
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []


if __name__ == "__main__":
    main()
