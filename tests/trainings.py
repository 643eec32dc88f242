"""Trainings on a running hub, over HTTP: start, follow, kill."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.cluster import OWN_VARIABLES, ROOT, RunningHub

START_TIMEOUT_S = 180.0
"""A job's process begins niced, on a machine that may be busy."""
TRAIN_TIMEOUT_S = 400.0
LONG_RECOMMENDATION = {
    "model": "neumf", "search": False, "pretrain": False, "factors": 8, "tower": 8,
    "negatives": 16, "batch_size": 128, "epochs": 200, "patience": 50, "time_limit_s": 20,
}  # fmt: skip
"""Works for twenty seconds on a small shop, in steps of milliseconds."""
LONG_NEXT_ITEM = {"trees": 1000, "ranking_histories": 8000, "max_fit_s": 60}


def load_shop(hub: RunningHub, store_id: int) -> int:
    """Load a made-up shop into the running hub's database, as an operator would."""
    command = [str(Path(sys.executable).parent / "aihub"), "recsys", "demo-shop", "--store", str(store_id)]
    environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES} | {"AIHUB_HOME": str(hub.home)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return store_id


def start_training(hub: RunningHub, kind: str, store_id: int, parameters: dict[str, Any]) -> str:
    answer = httpx.post(f"{hub.url}/train/{kind}", json={"store_id": store_id, "async": True} | parameters, timeout=60)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


def read_job(hub: RunningHub, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = httpx.get(f"{hub.url}/train/jobs/{job_id}", timeout=30).json()
    return job


def follow(hub: RunningHub, job_id: str, until: Callable[[dict[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
    """Wait for a state of a training and return it; one that ends in another way fails the test at once."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        job = read_job(hub, job_id)
        if until(job):
            return job
        assert job["status"] in {"queued", "running"}, job
        assert time.monotonic() < deadline_s, job
        time.sleep(0.2)


def follow_to_the_end(hub: RunningHub, job_id: str) -> dict[str, Any]:
    return follow(hub, job_id, lambda job: job["status"] == "succeeded", TRAIN_TIMEOUT_S)


def follow_to_step(hub: RunningHub, job_id: str, step: str) -> dict[str, Any]:
    return follow(hub, job_id, lambda job: job["status"] == "running" and job["step"] == step, START_TIMEOUT_S)


def versions(hub: RunningHub, store_id: int, model_type: str) -> list[str]:
    folder = hub.home / "results" / f"store_{store_id}" / model_type
    return sorted(path.name for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def driver_processes(hub: RunningHub, job_id: str) -> list[psutil.Process]:
    """The processes of a training's job, its shell included."""
    return [process for process in hub.processes("training.run") if job_id in " ".join(process.cmdline())]
