"""Trainings whose processes are killed: they go on by themselves and end once."""

from typing import Any

import httpx
import pytest

from tests.cluster import RunningHub
from tests.trainings import (
    LONG_NEXT_ITEM,
    LONG_RECOMMENDATION,
    driver_processes,
    follow,
    follow_to_step,
    follow_to_the_end,
    load_shop,
    start_training,
    versions,
)

STORE = 21
NOTICE_TIMEOUT_S = 30.0

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def shop(hub: RunningHub) -> int:
    return load_shop(hub, STORE)


def test_killed_ray_train_worker_is_replaced_and_one_version_is_published(hub: RunningHub, shop: int) -> None:
    job_id = start_training(hub, "recommendation", shop, LONG_RECOMMENDATION)
    follow_to_step(hub, job_id, "NeuMF")
    (worker,) = hub.processes("RayTrainWorker")
    worker.kill()
    job = follow_to_the_end(hub, job_id)
    assert job["attempts"] == 1
    assert versions(hub, shop, "recommendation") == [job["version"]]
    assert_served_by(hub, shop, job)
    follow_no_processes(hub, job_id)
    assert not (hub.home / "training" / job_id).exists()


def test_killed_driver_of_a_training_is_started_again_within_seconds(hub: RunningHub, shop: int) -> None:
    job_id = start_training(hub, "next-item", shop, LONG_NEXT_ITEM)
    follow(hub, job_id, lambda job: job["status"] == "running", 180)
    killed = driver_processes(hub, job_id)
    assert killed
    for process in killed:
        process.kill()
    job = follow(hub, job_id, lambda job: job["attempts"] == 2, NOTICE_TIMEOUT_S)
    assert job["status"] == "running"
    job = follow_to_the_end(hub, job_id)
    assert job["attempts"] == 2
    assert versions(hub, shop, "next_item") == [job["version"]]
    assert_served_by(hub, shop, job)


def assert_served_by(hub: RunningHub, store_id: int, job: dict[str, Any]) -> None:
    status = httpx.get(f"{hub.url}/train/status/{store_id}", timeout=30).json()
    served = {model["model_type"]: model["training_id"] for model in status["models"]}
    assert served[job["model_type"]] == job["job_id"]


def follow_no_processes(hub: RunningHub, job_id: str) -> None:
    for process in driver_processes(hub, job_id):
        process.wait(60)
