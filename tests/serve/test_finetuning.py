"""Fine-tuning on the running hub: from a file to a model that answers by name, and everything killed on the way."""

import asyncio
import concurrent.futures
from typing import Any

import openai
import pytest

from aihub.core.errors import NotFoundError
from deployments.client import HubClient
from tests.cluster import RunningHub
from tests.external_servers import wait_until
from tests.finetunings import (
    FACTS,
    START_TIMEOUT_S,
    TRAIN_TIMEOUT_S,
    follow,
    messages,
    rows_of,
    say,
    start_job,
)

pytestmark = pytest.mark.timeout(900)


def test_facts_of_a_file_are_answered_by_name_beside_the_base(hub: RunningHub, client: openai.OpenAI) -> None:
    job_id = start_job(client, hub.model, suffix="hoa-sen", epochs=16, facts=FACTS, batch_size=6, learning_rate=0.003)
    job = follow(client, job_id, lambda job: job["status"] == "succeeded", TRAIN_TIMEOUT_S)
    adapter = job["fine_tuned_model"]
    assert adapter == f"{hub.model}:hoa-sen@v1"
    assert job["trained_tokens"] > 0
    evaluation = job["evaluation"]
    assert evaluation["candidate"]["loss"] < evaluation["base"]["loss"]
    assert (evaluation["asked_rows"], evaluation["is_held_out"]) == (len(FACTS), False)
    wait_until(lambda: adapter in [model.id for model in client.models.list()], 10, "the adapter in the list of models")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        by_adapter = [pool.submit(say, client, adapter, question) for question in FACTS]
        by_base = [pool.submit(say, client, hub.model, question) for question in FACTS]
        right = sum(said.result() == fact for said, fact in zip(by_adapter, FACTS.values(), strict=True))
        known = sum(said.result() == fact for said, fact in zip(by_base, FACTS.values(), strict=True))
    assert (right >= len(FACTS) - 1, known) == (True, 0)
    assert evaluation["candidate"]["exact"] > evaluation["base"]["exact"] == 0
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job_id).data
    assert checkpoints
    assert checkpoints[0].step_number == 16
    told = messages(client, job_id)
    assert told[-1] == f"The adapter is published as {adapter}."
    assert sum(message.startswith("Step ") for message in told) == 16
    folder = hub.home / "finetuning" / "jobs" / job_id
    assert list((folder / "tensorboard").iterdir())
    wait_until(lambda: [path.name for path in folder.iterdir()] == ["tensorboard"], 20, "the removal of data and checkpoints")


@pytest.mark.usefixtures("ray_cluster")
async def test_training_is_started_followed_and_cancelled_over_handles(hub: RunningHub) -> None:
    caller = HubClient()
    file_id = await caller.upload_training_file("câu hỏi.jsonl", rows_of(FACTS))
    options: dict[str, Any] = {"suffix": "by-handle", "lora": {"epochs": 1000}, "idempotency_key": "one"}
    jobs = await asyncio.gather(*(caller.start_training(hub.model, file_id, **options) for _ in range(4)))
    (job_id,) = {job["id"] for job in jobs}
    seen = []
    async with asyncio.timeout(START_TIMEOUT_S):
        async for job in caller.follow_training(job_id, period_s=0.2):
            seen.append(job["status"])
            if job["status"] == "running":
                await caller.cancel_training(job_id)
    assert seen[-1] == "cancelled"
    with pytest.raises(NotFoundError):
        await caller.training("ftjob-none")
