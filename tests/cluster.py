"""A real hub for the tests: one `aihub serve` per session, with the real default models."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from aihub.cli import serve as processes
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.models.store.default_models import (
    prepare_chat_model,
    prepare_embedding_model,
    select_chat_model,
    select_embedding_model,
)
from tests.external_servers import free_port
from tests.serve.second_model import build_second_model

# Ray reads this once, when it is first imported: tests join the hub's cluster with the token its start has made.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# A call without a cluster must fail; by default Ray would start a second one beside the hub's.
os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
OWN_VARIABLES = frozenset({"RAY_AUTH_MODE", "RAY_ENABLE_AUTO_CONNECT"})

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 90.0
MODELS_MEMORY_GB = 5.0
SECOND_MODEL = "tiny-second"


@dataclass
class RunningHub:
    """A hub started as a user starts it."""

    url: str
    home: Path
    run_id: str
    process: "subprocess.Popen[str]"
    printed: str
    model: str = "smollm2-135m-instruct"
    embedding_model: str = "all-minilm-l6-v2"

    def processes(self, name: str) -> list[psutil.Process]:
        """Live processes of this hub whose title contains `name`."""
        return [process for process in processes.find_run(self.run_id) if name in title(process)]

    @property
    def dashboard(self) -> str:
        found = re.search(r"Dashboard\s+(\S+)", self.printed)
        assert found is not None, self.printed
        return found.group(1)


def title(process: psutil.Process) -> str:
    try:
        return " ".join([process.name(), *process.cmdline()])
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def start_hub(home: Path, *, environment: dict[str, str] | None = None) -> RunningHub:
    """Run `aihub serve` until it says it is ready.

    The models of the project's own state folder are shared; beside them lies a second chat model, and memory for chat models
    is limited so that only one of the two fits.
    """
    _share_models(home / "models")
    port = free_port()
    run_id = f"test-{os.getpid()}-{port}"
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "aihub"), "serve", "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
        | {"AIHUB_HOME": str(home), processes.RUN_ID_VARIABLE: run_id}
        | {"AIHUB_MODELS_MEMORY_GB": str(MODELS_MEMORY_GB), "MIN_RESIDENCY": "1"}
        | (environment or {}),
    )
    assert process.stdout is not None
    printed, deadline_s = "", time.monotonic() + START_TIMEOUT_S
    for line in process.stdout:
        printed += line
        if "Ctrl-C stops everything" in line:
            return RunningHub(f"http://127.0.0.1:{port}", home, run_id, process, printed)
        assert time.monotonic() < deadline_s, printed
    log = home / "logs" / "serve.log"
    tail = log.read_text(encoding="utf-8", errors="replace")[-4000:] if log.is_file() else ""
    pytest.fail(f"the hub did not start:\n{printed}\n{tail}")


def _share_models(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings()
    profile = load_profile(settings.profile)
    first = prepare_chat_model(select_chat_model(settings, profile).source, settings)
    prepare_embedding_model(select_embedding_model(settings, profile).source, settings, backend=profile.embeddings.backend)
    for shared in settings.models_path.iterdir():
        if shared.is_dir() and not (folder / shared.name).exists():
            (folder / shared.name).symlink_to(shared)
    if not (folder / SECOND_MODEL).exists():
        build_second_model(first, folder / SECOND_MODEL)


def stop_hub(hub: RunningHub) -> str:
    """Press Ctrl-C; return what it printed last."""
    hub.process.send_signal(signal.SIGINT)
    rest, _ = hub.process.communicate(timeout=STOP_TIMEOUT_S)
    return rest


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One hub for the whole session; when it has stopped, none of its processes may be left."""
    running = start_hub(tmp_path_factory.mktemp("hub"))
    yield running
    stop_hub(running)
    assert processes.find_run(running.run_id) == []
