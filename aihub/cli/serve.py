"""`aihub serve`: check the machine, prepare the models, run the Serve config, wait until it answers, stop it cleanly.

Every process of a run inherits `AIHUB_RUN_ID`, so what is left after a stop is found whatever its parent.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from types import FrameType
from typing import Annotated

import httpx
import psutil
import typer

from aihub.cli import preflight
from aihub.core.errors import ConfigurationError
from aihub.core.profiles import load_profile
from aihub.core.progress import progress_bar
from aihub.core.settings import Settings
from aihub.models.store.default_models import (
    prepare_chat_model,
    prepare_embedding_model,
    select_chat_model,
    select_embedding_model,
)

_DASHBOARD = re.compile(r"dashboard at\s+(?:\x1b\[[0-9;]*m)*(https?://[^\s\x1b]+)")


_OPEN = """\
The hub is open: anyone on this machine may use everything, as administrator. To close it, make the first key:
  .venv/bin/aihub keys create --name laptop"""
_CLOSED = """\
Every request needs an API key. Another one: .venv/bin/aihub keys create --name NAME (docs/accounts.md)"""


def render(api_url: str, log_path: Path, model_id: str, *, is_open: bool) -> str:
    """Return the addresses, who may use them, and one curl to paste.

    Args:
        is_open: Whether the hub asks nobody for a key.
    """
    client = f'any OpenAI client: base_url="{api_url}/v1", {"any api_key" if is_open else "api_key=<your key>"}'
    key_header = "" if is_open else ' -H "Authorization: Bearer $AIHUB_API_KEY"'
    return f"""
  API        {api_url}/v1        ({client})
  API docs   {api_url}/docs
  Dashboard  {find_dashboard(log_path)}  (token: run `.venv/bin/ray get-auth-token`)
  Log        {log_path}

{_OPEN if is_open else _CLOSED}

Try it:

  curl {api_url}/v1/chat/completions{key_header} -H 'Content-Type: application/json' \\
    -d '{{"model": "{model_id}", "max_tokens": 40, "temperature": 0,
         "messages": [{{"role": "user", "content": "Name the capital of France."}}]}}'

Ctrl-C stops everything.
"""


def find_dashboard(log_path: Path) -> str:
    """Return the address Ray printed; Ray takes the next port when 8265 is busy."""
    found = _DASHBOARD.search(log_path.read_text(encoding="utf-8", errors="replace"))
    return found.group(1) if found else "http://127.0.0.1:8265"


RUN_ID_VARIABLE = "AIHUB_RUN_ID"


def stop_all(child: "subprocess.Popen[bytes]", run_id: str, *, timeout_s: float) -> None:
    """Interrupt `child`, wait for every process of the run to end, and end by force those that do not.

    Args:
        child: The process that runs the Serve config.
        run_id: Value of `AIHUB_RUN_ID` of this run.
        timeout_s: Longest wait for an orderly stop.
    """
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        child.poll()
        if not find_run(run_id):
            return
        time.sleep(0.2)
        if child.returncode is not None:
            # The driver has gone: Ray's own processes end within seconds, the rest only needs a nudge.
            deadline_s = min(deadline_s, time.monotonic() + 10.0)
    left = find_run(run_id)
    for process in left:
        _signal(process, terminate=True)
    _, stubborn = psutil.wait_procs(left, timeout=8.0)
    for process in stubborn:
        _signal(process, terminate=False)
    psutil.wait_procs(stubborn, timeout=5.0)


def find_run(run_id: str) -> list[psutil.Process]:
    """Return the live processes of a run, this one excluded."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(RUN_ID_VARIABLE) == run_id:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Gone meanwhile, or another user's: not ours.
            continue
    return found


def _signal(process: psutil.Process, *, terminate: bool) -> None:
    try:
        if terminate:
            process.terminate()
        else:
            process.kill()
    except psutil.NoSuchProcess:
        return


READY_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 40.0


def serve(
    config: Annotated[Path, typer.Option(help="The Ray Serve config to run.")] = Path("serve_config.yaml"),
    port: Annotated[int | None, typer.Option(help="API port instead of the config's.", min=1, max=65535)] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on instead of the config's; 0.0.0.0 is every one, and needs a key.")
    ] = None,
) -> None:
    """Start the hub and wait until it answers; Ctrl-C stops everything."""
    settings = Settings()
    preflight.check_variables(settings)
    plan = preflight.check(config, port, settings, host=host)
    profile = load_profile(settings.profile)
    typer.echo(f"Profile {profile.name}; state in {settings.home_path}")
    with progress_bar() as progress:
        embedding_choice = select_embedding_model(settings, profile)
        prepare_embedding_model(embedding_choice.source, settings, progress, backend=profile.embeddings.backend)
        prepare_chat_model(select_chat_model(settings, profile).source, settings, progress)

    run_id = os.environ.get(RUN_ID_VARIABLE) or uuid.uuid4().hex
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
            env=os.environ | {"AIHUB_HOME": str(settings.home_path), RUN_ID_VARIABLE: run_id} | plan.environment,
        )
        try:
            _wait_until_ready(child, plan.api_url, log_path, stop)
            if not stop.requested:
                model_id = select_chat_model(settings, profile).model_id
                typer.echo(render(plan.api_url, log_path, model_id, is_open=_is_open(plan.api_url)))
            while not stop.requested:
                if child.poll() is not None:
                    raise ConfigurationError(f"The hub stopped by itself. The reason is at the end of {log_path}.")
                time.sleep(0.2)
        finally:
            with contextlib.suppress(BrokenPipeError):
                # The terminal may be gone already; the hub must be stopped all the same.
                typer.echo("Stopping ...")
            stop_all(child, run_id, timeout_s=STOP_TIMEOUT_S)
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


def _is_open(api_url: str) -> bool:
    """Whether the hub answers a request without a key; asked over HTTP, as this process knows no database."""
    try:
        return httpx.get(f"{api_url}/api/v1/account", timeout=5.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _read_missing_parts(api_url: str) -> dict[str, dict[str, str | None]] | None:
    """Return the parts the hub still waits for; None while nobody answers."""
    try:
        missing: dict[str, dict[str, str | None]] = httpx.get(f"{api_url}/health/ready", timeout=3.0).json()["waits_for"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return missing
