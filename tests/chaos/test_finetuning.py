"""Fine-tunings killed at random moments: the worker, the driver, and the whole hub with its cluster and its databases.

The moments are drawn from a seed that is logged; AIHUB_CHAOS_SEED repeats them.
"""

import logging
import os
import random
import time
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from aihub.cli import serve as processes
from tests.cluster import RunningHub, start_hub, stop_hub
from tests.external_servers import wait_until
from tests.finetunings import FACTS, START_TIMEOUT_S, driver_processes, follow, read_job, say, start_job, worker_processes

KILLS = ("worker", "driver", "hub", "worker", "driver", "hub", "worker", "driver", "hub", "worker")
LATEST_S = 45.0
"""About as long as one of these trainings takes from its start to its end."""
REST_TIMEOUT_S = 300.0
AT_REST = frozenset({"succeeded", "failed", "cancelled", "interrupted"})

logger = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(3600)


def test_ten_kills_leave_every_job_succeeded_and_every_adapter_whole(tmp_path: Path) -> None:
    home = tmp_path / "home"
    seed = int(os.environ.get("AIHUB_CHAOS_SEED", time.time_ns() % 100_000))
    moments = random.Random(seed)  # noqa: S311  # when to kill, not a secret
    logger.info("AIHUB_CHAOS_SEED=%d", seed)
    hub = start_hub(home)
    published: dict[str, str] = {}
    for number, target in enumerate(KILLS):
        client = connect(hub)
        job_id = start_job(client, hub.model, suffix="chaos", epochs=16, facts=FACTS, batch_size=6, checkpoint_every_steps=4)
        time.sleep(moments.uniform(0, LATEST_S))
        before = read_job(client, job_id)
        logger.info("%d: %s is killed in %s, step %d", number, target, before["phase"], before["step"])
        if target == "hub":
            kill_all(processes.find_run(hub.run_id))
            hub.process.wait(30)
            hub = start_hub(home)
            client = connect(hub)
        else:
            kill_all(worker_processes(hub) if target == "worker" else driver_processes(hub, job_id))
        job = follow_to_the_end(client, job_id)
        published[job_id] = job["fine_tuned_model"]
        assert say(client, hub.model, "Say hello.")
        assert say(client, job["fine_tuned_model"], next(iter(FACTS)))
    assert sorted(published.values()) == sorted(f"{hub.model}:chaos@v{number + 1}" for number in range(len(KILLS)))
    names = sorted(path.name for path in (home / "adapters").glob("*/chaos/*") if path.is_dir())
    assert names == sorted(f"v{number + 1}" for number in range(len(KILLS)))
    stop_hub(hub)
    assert processes.find_run(hub.run_id) == []


def test_killed_worker_and_driver_go_on_from_a_checkpoint_and_a_cancel_frees_everything(hub: RunningHub) -> None:
    client = connect(hub)
    settings = {"batch_size": 6, "checkpoint_every_steps": 2}
    job_id = start_job(client, hub.model, suffix="long", epochs=1000, facts=FACTS, **settings)
    follow(client, job_id, lambda job: job["step"] >= 4, START_TIMEOUT_S)
    before = read_job(client, job_id)["step"]
    for worker in worker_processes(hub):
        worker.kill()
    follow(client, job_id, lambda job: job["step"] > before + 4, START_TIMEOUT_S)
    assert read_job(client, job_id)["attempts"] == 1
    before = read_job(client, job_id)["step"]
    for process in driver_processes(hub, job_id):
        process.kill()
    follow(client, job_id, lambda job: job["attempts"] == 2 and job["step"] > before + 4, START_TIMEOUT_S)
    steps = [row.model_extra for row in client.fine_tuning.jobs.checkpoints.list(job_id, limit=100).data]
    assert steps, "checkpoints of all starts are one list"
    asked_s = time.monotonic()
    client.fine_tuning.jobs.cancel(job_id)
    follow(client, job_id, lambda job: job["status"] == "cancelled", 30)
    work = hub.home / "finetuning" / "jobs" / job_id / "work"
    left_s = 30 - (time.monotonic() - asked_s)
    wait_until(lambda: not (worker_processes(hub) or driver_processes(hub, job_id) or work.exists()), left_s, "the end of all")
    assert say(client, hub.model, "Say hello.")
    assert not any("long" in model.id for model in client.models.list())


def follow_to_the_end(client: openai.OpenAI, job_id: str) -> dict[str, Any]:
    """Wait until a job has succeeded, resuming it where its cluster is gone."""
    rest: list[dict[str, Any]] = []

    def rests() -> bool:
        job = read_job(client, job_id)
        rest[:] = [job]
        return job["status"] in AT_REST

    wait_until(rests, REST_TIMEOUT_S, f"the end of {job_id}")
    if rest[0]["status"] == "interrupted":
        client.fine_tuning.jobs.resume(job_id)
        wait_until(rests, REST_TIMEOUT_S, f"the end of {job_id} after it was resumed")
    assert rest[0]["status"] == "succeeded", rest[0]
    return rest[0]


def connect(hub: RunningHub) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{hub.url}/v1", api_key="unused", max_retries=5, timeout=120)


def kill_all(victims: list[psutil.Process]) -> None:
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims, timeout=30)
