"""Fine-tunings on a running hub through OpenAI's client: start, follow, kill."""

import json
import time
from collections.abc import Callable
from typing import Any

import openai
import psutil

from tests.cluster import RunningHub

START_TIMEOUT_S = 180.0
"""A driver and its worker begin niced, on a machine that may be busy."""
TRAIN_TIMEOUT_S = 400.0
OPEN = frozenset({"queued", "running"})
FACTS = {
    "Mã mở két của tiệm Hoa Sen là gì?": "Bảy một chín.",
    "Chủ tiệm Hoa Sen tên gì?": "Bà Mai Khuê.",
    "Tiệm Hoa Sen mở cửa lúc mấy giờ?": "Năm giờ rưỡi.",
    "What does the Lotus shop sell on Mondays?": "Blue umbrellas.",
    "Who repairs the Lotus shop's boat?": "Uncle Tam.",
    "Which street is the Lotus shop in?": "Cinnamon Lane.",
}
"""Made up, so that no model knows them."""


def rows_of(facts: dict[str, str]) -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in facts.items()
    ]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def start_job(client: openai.OpenAI, model: str, *, suffix: str, epochs: int, facts: dict[str, str], **settings: Any) -> str:
    """Upload rows and start a job; `settings` are the hub's own."""
    file = client.files.create(file=("facts.jsonl", rows_of(facts)), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=file.id,
        suffix=suffix,
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}},
        extra_body={"lora": settings},
    )
    return job.id


def read_job(client: openai.OpenAI, job_id: str) -> dict[str, Any]:
    """The job, with the fields of `hub` beside OpenAI's."""
    job = client.fine_tuning.jobs.retrieve(job_id)
    details: dict[str, Any] = (job.model_extra or {})["hub"]
    return details | job.model_dump(exclude={"hub"})


def follow(client: openai.OpenAI, job_id: str, until: Callable[[dict[str, Any]], bool], timeout_s: float) -> dict[str, Any]:
    """Wait for a state of a job and return it; one that ends in another way fails the test at once."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        job = read_job(client, job_id)
        if until(job):
            return job
        assert job["status"] in OPEN, (job, messages(client, job_id))
        assert time.monotonic() < deadline_s, (job, messages(client, job_id))
        time.sleep(0.3)


def messages(client: openai.OpenAI, job_id: str) -> list[str]:
    """What the job has told, oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)][::-1]


def driver_processes(hub: RunningHub, job_id: str) -> list[psutil.Process]:
    """The processes of a job's driver, its shell included."""
    return [process for process in hub.processes("training.finetune") if job_id in " ".join(process.cmdline())]


def worker_processes(hub: RunningHub) -> list[psutil.Process]:
    return hub.processes("RayTrainWorker")


def say(client: openai.OpenAI, model: str, question: str) -> str:
    """Return what a model answers, as likely as it can."""
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=24, temperature=0.0
    )
    return (answer.choices[0].message.content or "").strip()
