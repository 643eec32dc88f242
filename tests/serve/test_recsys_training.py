"""Trainings on the running hub: one at a time, and cancelled in mid-fit."""

import time

import httpx
import pytest

from tests.cluster import RunningHub
from tests.trainings import (
    LONG_RECOMMENDATION,
    driver_processes,
    follow,
    follow_to_step,
    load_shop,
    read_job,
    start_training,
    versions,
)

STORE = 22

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def shop(hub: RunningHub) -> int:
    return load_shop(hub, STORE)


def test_training_is_cancelled_within_seconds_and_the_next_starts_at_once(hub: RunningHub, shop: int) -> None:
    first = start_training(hub, "recommendation", shop, LONG_RECOMMENDATION)
    follow_to_step(hub, first, "NeuMF")
    again = httpx.post(f"{hub.url}/train/recommendation", json={"store_id": shop}, timeout=60)
    assert again.status_code == 409
    assert first in again.json()["error"]["message"]
    asked_s = time.monotonic()
    assert httpx.delete(f"{hub.url}/train/jobs/{first}", timeout=30).status_code == 200
    job = follow(hub, first, lambda job: job["status"] == "cancelled", 15)
    assert time.monotonic() - asked_s < 15
    assert job["version"] is None
    assert versions(hub, shop, "recommendation") == []
    second = start_training(hub, "recommendation", shop, LONG_RECOMMENDATION)
    assert httpx.delete(f"{hub.url}/train/jobs/{second}", timeout=30).json()["status"] == "cancelled"
    for process in driver_processes(hub, second):
        process.wait(60)
    assert read_job(hub, second)["status"] == "cancelled"
    assert versions(hub, shop, "recommendation") == []
