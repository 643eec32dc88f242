"""The earlier service's paths on the same jobs."""

import os
from typing import Any

import pytest

from tests.unit.conftest import assert_refused
from tests.unit.finetuning.jobs_hub import BASE, ROWS, JobsHub, jsonl

PATH = "/api/v1/training/jobs"


def data_of(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert list(document) == ["success", "data"]
    assert document["success"] is True
    return document["data"]


def write_dataset(hub: JobsHub, name: str = "shop/câu hỏi.jsonl", rows: list[dict[str, Any]] = ROWS) -> str:
    path = hub.home / "datasets" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonl(rows))
    return name


def body(**changes: Any) -> dict[str, Any]:
    """As clients of the earlier service send it."""
    return {
        "name": "Cửa hàng",
        "base_model": BASE,
        "dataset_path": "shop/câu hỏi.jsonl",
        "training_type": "lora",
        "learning_rate": 2e-4,
        "num_epochs": 3,
    } | changes


async def test_the_earlier_body_as_it_is_is_answered_with_the_model_that_can_be_trained(hub: JobsHub) -> None:
    sent = {"name": "my-model", "base_model": "llama2:7b", "dataset_path": "a.jsonl", "training_type": "lora"}
    answer = await hub.http.post(PATH, json=sent | {"learning_rate": 2e-4, "num_epochs": 3})
    error = assert_refused(answer, 400, param="base_model", code="model_not_trainable")
    assert "meta-llama/Llama-2-7b-chat-hf" in error["message"]
    assert hub.folders() == []


async def test_a_data_set_of_the_state_folder_becomes_a_job_that_openai_s_client_sees(hub: JobsHub) -> None:
    write_dataset(hub)
    answer = await hub.http.post(PATH, json=body())
    job = data_of(answer)
    assert answer.headers["location"] == f"{PATH}/{job['job_id']}"
    assert (job["id"], job["status"], job["name"], job["training_type"]) == (job["job_id"], "queued", "cua-hang", "lora")
    assert (job["learning_rate"], job["num_epochs"], job["dataset"]) == (2e-4, 3, "datasets/shop/câu hỏi.jsonl")
    seen = await hub.openai.fine_tuning.jobs.retrieve(job["job_id"])
    assert (seen.hyperparameters.n_epochs, seen.hyperparameters.learning_rate_multiplier) == (3, 1.0)
    assert hub.folder(job["job_id"]).training.read_bytes() == jsonl(ROWS)
    (hub.home / "datasets" / "shop" / "câu hỏi.jsonl").unlink()
    assert data_of(await hub.http.get(f"{PATH}/{job['job_id']}")) == job


async def test_an_uploaded_file_and_a_validation_file_do_as_well(hub: JobsHub) -> None:
    file_id = await hub.uploaded()
    for field in ("file_id", "training_file"):
        sent = body(
            dataset_path=None, validation_file=await hub.uploaded(jsonl(ROWS[:2])), training_type="qlora", **{field: file_id}
        )
        job = data_of(await hub.http.post(PATH, json=sent))
        assert (job["dataset"], job["training_type"]) == (file_id, "qlora")
    write_dataset(hub, "kiểm tra.jsonl", ROWS[:2])
    sent = body(dataset_path=None, file_id=file_id, validation_dataset_path="kiểm tra.jsonl", lora={"rank": 8}, batch_size=2)
    job = data_of(await hub.http.post(PATH, json=sent))
    assert (job["validation_dataset"], job["batch_size"]) == ("datasets/kiểm tra.jsonl", 2)


@pytest.mark.parametrize(
    ("changes", "status", "param", "code"),
    [
        ({"dataset_path": None}, 400, "dataset_path", "missing_required_parameter"),
        ({"file_id": "file-1"}, 400, "dataset_path", "invalid_value"),
        ({"dataset_path": "../../../etc/passwd"}, 400, "dataset_path", "invalid_dataset_path"),
        ({"dataset_path": "/etc/passwd"}, 400, "dataset_path", "invalid_dataset_path"),
        ({"validation_dataset_path": "../x"}, 400, "validation_dataset_path", "invalid_dataset_path"),
        ({"dataset_path": "ra ngoài.jsonl"}, 400, "dataset_path", "invalid_dataset_path"),
        ({"dataset_path": "shop/gone.jsonl"}, 404, "dataset_path", "dataset_not_found"),
        ({"dataset_path": "sai.jsonl"}, 400, "dataset_path", "invalid_training_file"),
        ({"dataset_path": None, "file_id": "file-gone"}, 404, "training_file", "file_not_found"),
        ({"base_model": "gone"}, 404, "base_model", "model_not_found"),
        ({"base_model": "quantised"}, 400, "base_model", "model_not_trainable"),
        ({"training_type": "full"}, 400, "training_type", "invalid_value"),
        ({"learning_rate": 1}, 400, "learning_rate", "invalid_value"),
        ({"num_epochs": 0}, 400, "num_epochs", "invalid_value"),
        ({"name": "🍜"}, 400, "name", "invalid_value"),
        ({"epochs": 3}, 400, "epochs", "unknown_parameter"),
        ({"lora": {"epochs": 4}}, 400, "lora.epochs", "contradicting_parameters"),
        ({"lora": {"method": "qlora"}}, 400, "lora.method", "contradicting_parameters"),
        ({"validation_file": "file-1", "validation_dataset_path": "a.jsonl"}, 400, "validation_file", "contradicting_parameters"),
    ],
)
async def test_what_is_wrong_is_named_and_leaves_nothing(
    hub: JobsHub, changes: dict[str, Any], status: int, param: str, code: str
) -> None:
    write_dataset(hub)
    write_dataset(hub, "sai.jsonl", [{"prompt": "a"}])
    os.symlink("/etc/hostname", hub.home / "datasets" / "ra ngoài.jsonl")
    assert_refused(await hub.http.post(PATH, json=body(**changes)), status, param=param, code=code)
    assert (hub.folders(), await hub.job_ids()) == ([], [])


async def test_the_list_is_paged_newest_first(hub: JobsHub) -> None:
    write_dataset(hub)
    made = [data_of(await hub.http.post(PATH, json=body()))["job_id"] for _ in range(3)]
    page = data_of(await hub.http.get(f"{PATH}?limit=2"))
    assert ([job["job_id"] for job in page["jobs"]], page["has_more"]) == (made[:0:-1], True)
    rest = data_of(await hub.http.get(f"{PATH}?after={made[1]}"))
    assert ([job["job_id"] for job in rest["jobs"]], rest["has_more"]) == (made[:1], False)


async def test_status_shows_the_place_in_the_queue_then_the_share_done(hub: JobsHub) -> None:
    first, second = [(await hub.created())["id"] for _ in range(2)]
    positions = [data_of(await hub.http.get(f"{PATH}/{job_id}/status"))["queue_position"] for job_id in (first, second)]
    assert positions[1] == positions[0] + 1
    await hub.set(first, status="running", phase="training", step=10, steps=40, seconds_left=3.5)
    await hub.stepped(first, 10)
    status = data_of(await hub.http.get(f"{PATH}/{first}/status"))
    assert (status["status"], status["phase"], status["step"], status["steps"], status["progress"]) == (
        "running", "training", 10, 40, 0.25,
    )  # fmt: skip
    assert (status["loss"], status["eval_loss"], status["tokens_per_s"], status["memory_bytes"]) == (0.2, 0.3, 100.5, 1000)
    assert (status["seconds_left"], status["queue_position"]) == (3.5, None)
    await hub.set(first, status="succeeded", adapter_id=f"{BASE}:a@v1", step=20)
    status = data_of(await hub.http.get(f"{PATH}/{first}/status"))
    assert (status["progress"], status["adapter_id"]) == (1.0, f"{BASE}:a@v1")


@pytest.mark.parametrize(("steps", "limit"), [(3, 1000), (1000, 10), (997, 100), (11, 10)])
async def test_progress_is_thinned_evenly_and_keeps_the_last_step(hub: JobsHub, steps: int, limit: int) -> None:
    job_id = (await hub.created())["id"]
    await hub.stepped(job_id, steps)
    points = data_of(await hub.http.get(f"{PATH}/{job_id}/progress?limit={limit}"))["points"]
    seen = [point["step"] for point in points]
    assert len(seen) == min(steps, limit)
    assert (seen, seen[-1]) == (sorted(set(seen)), steps)
    gaps = [after - before for before, after in zip(seen, seen[1:], strict=False)]
    assert max(gaps) <= 2 * steps / limit + 1
    if steps == 1000:
        assert sum(point["eval_loss"] is not None for point in points) == 10


async def test_delete_cancels(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    job = data_of(await hub.http.delete(f"{PATH}/{job_id}"))
    assert (job["status"], job["job_id"]) == ("cancelled", job_id)
    assert not hub.folder(job_id).training.exists()


async def test_the_key_makes_one_job_here_too(hub: JobsHub) -> None:
    write_dataset(hub)
    answers = [await hub.http.post(PATH, json=body(), headers={"Idempotency-Key": "k"}) for _ in range(3)]
    assert len({data_of(answer)["job_id"] for answer in answers}) == 1
    other = await hub.http.post(PATH, json=body(num_epochs=4), headers={"Idempotency-Key": "k"})
    assert_refused(other, 409, code="idempotency_conflict")
