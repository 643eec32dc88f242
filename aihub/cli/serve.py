"""`aihub serve`: check the machine, prepare the models, run the Serve config, wait until it answers, stop it cleanly."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import Annotated

import httpx
import typer

from aihub.cli import banner, preflight, processes
from aihub.errors import ConfigurationError
from aihub.profiles import load_profile
from aihub.registry.default_models import prepare_chat_model, prepare_embedding_model
from aihub.registry.progress import progress_bar
from aihub.registry.selection import select_chat_model, select_embedding_model
from aihub.settings import Settings

READY_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 40.0


def serve(
    config: Annotated[Path, typer.Option(help="The Ray Serve config to run.")] = Path("serve_config.yaml"),
    port: Annotated[int | None, typer.Option(help="API port instead of the config's.", min=1, max=65535)] = None,
) -> None:
    """Start the hub and wait until it answers; Ctrl-C stops everything."""
    settings = Settings()
    preflight.check_variables(settings)
    plan = preflight.check(config, port, settings)
    profile = load_profile(settings.profile)
    typer.echo(f"Profile {profile.name}; state in {settings.home_path}")
    with progress_bar() as progress:
        embedding_choice = select_embedding_model(settings, profile)
        prepare_embedding_model(embedding_choice.source, settings, progress, backend=profile.embeddings.backend)
        prepare_chat_model(select_chat_model(settings, profile).source, settings, progress)

    run_id = os.environ.get(processes.RUN_ID_VARIABLE) or uuid.uuid4().hex
    log_path = settings.home_path / "logs" / "serve.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    stop = _StopRequest()
    with log_path.open("wb") as log:
        child = subprocess.Popen(  # noqa: S603  # our own module, arguments as a list
            [sys.executable, "-m", "deployments.launch", str(plan.config_path)],
            stdout=log,
            stderr=subprocess.STDOUT,
            # Its own session: Ctrl-C reaches this process only, which then stops the hub in order.
            start_new_session=True,
            env=os.environ | {"AIHUB_HOME": str(settings.home_path), processes.RUN_ID_VARIABLE: run_id} | plan.environment,
        )
        try:
            _wait_until_ready(child, plan.api_url, log_path, stop)
            if not stop.requested:
                typer.echo(banner.render(plan.api_url, log_path, select_chat_model(settings, profile).model_id))
            while not stop.requested:
                if child.poll() is not None:
                    raise ConfigurationError(f"The hub stopped by itself. The reason is at the end of {log_path}.")
                time.sleep(0.2)
        finally:
            with contextlib.suppress(BrokenPipeError):
                # The terminal may be gone already; the hub must be stopped all the same.
                typer.echo("Stopping ...")
            processes.stop_all(child, run_id, timeout_s=STOP_TIMEOUT_S)
            typer.echo("Stopped.")


class _StopRequest:
    """Remembers Ctrl-C and SIGTERM, so that a stop is never half done."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGINT, self._note)
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGHUP, self._note)

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True


def _wait_until_ready(child: "subprocess.Popen[bytes]", api_url: str, log_path: Path, stop: _StopRequest) -> None:
    started_s = time.monotonic()
    shown = ""
    while not stop.requested:
        if child.poll() is not None:
            raise ConfigurationError(preflight.explain_failure(log_path))
        missing = _read_missing_parts(api_url)
        if missing is not None and (reason := missing.get("llm", {}).get("reason") or "").startswith("failed: "):
            raise ConfigurationError(reason.removeprefix("failed: "))
        if missing == {}:
            typer.echo(f"Ready after {time.monotonic() - started_s:.0f} s.")
            return
        state = "Ray and the applications are starting" if missing is None else f"waiting for {', '.join(missing)}"
        if state != shown:
            typer.echo(f"  {time.monotonic() - started_s:4.0f} s  {state}")
            shown = state
        if time.monotonic() - started_s > READY_TIMEOUT_S:
            raise ConfigurationError(f"The hub was not ready after {READY_TIMEOUT_S:.0f} s. The log is {log_path}.")
        if failure := preflight.find_deploy_failure(log_path):
            raise ConfigurationError(failure)
        time.sleep(0.5)


def _read_missing_parts(api_url: str) -> dict[str, dict[str, str | None]] | None:
    """Return the parts the hub still waits for; None while nobody answers."""
    try:
        missing: dict[str, dict[str, str | None]] = httpx.get(f"{api_url}/health/ready", timeout=3.0).json()["waits_for"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return missing
