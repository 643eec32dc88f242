"""The servers a benchmark compares: a hub, a bare vLLM server on the same weights, a bare FastAPI echo."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from aihub.cli import serve as processes
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.models.store.default_models import prepare_chat_model, select_chat_model

START_TIMEOUT_S = 400.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_hub(log: Path, environment: dict[str, str] | None = None) -> Iterator[str]:
    """Run `aihub serve` on a free port, with more variables if given; yield its address."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "aihub"), "serve", "--port", str(port)]
    with running_process(command, log, environment or {}, f"http://127.0.0.1:{port}/health") as url:
        yield url.removesuffix("/health")


@contextmanager
def running_vllm(log: Path) -> Iterator[str]:
    """Run vLLM's own OpenAI server with the hub's weights and engine settings; yield its address."""
    from deployments.llm_app import engine_dtype

    settings = Settings()
    profile = load_profile(settings.profile).with_max_length(settings.max_length)
    choice = select_chat_model(settings, profile)
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(prepare_chat_model(choice.source, settings)), "--served-model-name", choice.model_id]
    command += ["--max-model-len", str(profile.llm.max_model_len), "--max-num-seqs", str(profile.llm.max_num_seqs)]
    command += ["--dtype", engine_dtype(profile.llm, profile.device)]
    command += ["--enforce-eager"] if profile.llm.enforce_eager else []
    if profile.llm.cpu_kv_cache_gb is not None:
        command += ["--kv-cache-memory-bytes", str(profile.llm.cpu_kv_cache_gb * 2**30)]
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with running_process(command, log, environment, f"http://127.0.0.1:{port}/health") as url:
        yield url.removesuffix("/health")


@contextmanager
def running_echo(log: Path) -> Iterator[str]:
    """Run a bare FastAPI application on one uvicorn worker; yield the address of its only route."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.echo:app", "--host", "127.0.0.1", "--port", str(port)]
    with running_process([*command, "--log-level", "warning"], log, {}, f"http://127.0.0.1:{port}/echo") as url:
        yield url


@contextmanager
def running_process(command: list[str], log: Path, environment: dict[str, str], ready_url: str) -> Iterator[str]:
    """Run a server until the block ends; yield `ready_url` once it answers 200."""
    run_id = f"bench-{os.getpid()}-{log.stem}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | environment | {processes.RUN_ID_VARIABLE: run_id},
        )
        try:
            _wait_until_ready(child, ready_url, log)
            yield ready_url
        finally:
            # `aihub serve` gives its own run an id of its own and stops it; this finds the rest.
            if child.poll() is None:
                child.terminate()
                child.wait(timeout=90)
            processes.stop_all(child, run_id, timeout_s=10)


def _wait_until_ready(child: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if child.poll() is not None:
            raise SystemExit(f"A server to compare with ended at once. Its log is {log}.")
        try:
            if httpx.get(url, timeout=2.0).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"A server to compare with did not start. Its log is {log}.")
