"""Jobs under many callers, cancelled ones, and what becomes of their files."""

import asyncio
import os
import time
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from aihub.core.errors import ConflictError, RateLimitError, StorageUnavailableError
from aihub.core.principal import Principal
from aihub.finetuning import job_data
from aihub.finetuning.job_data import ABANDONED_S
from aihub.finetuning.requests import from_openai
from aihub.finetuning.routes import CREATE_TIMEOUT_S
from aihub.finetuning.schemas import FineTuningRequest, JobCreate
from aihub.finetuning.tables import jobs as jobs_table
from tests.unit.conftest import assert_refused
from tests.unit.documents.routes.document_hub import official_clients
from tests.unit.finetuning.jobs_hub import BASE, ROWS, JobsHub, jsonl


def request_for(file_id: str, **body: Any) -> FineTuningRequest:
    return from_openai(JobCreate.model_validate({"model": BASE, "training_file": file_id} | body))


async def test_twenty_submissions_with_one_key_are_one_job_checked_once(hub: JobsHub) -> None:
    body = {"model": BASE, "training_file": await hub.uploaded(), "suffix": "chung"}
    answers = await asyncio.gather(
        *(hub.http.post("/v1/fine_tuning/jobs", json=body, headers={"Idempotency-Key": "khoá-1".encode()}) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {200}
    (job_id,) = {answer.json()["id"] for answer in answers}
    assert (await hub.job_ids(), hub.folders(), len(hub.checker.checks), len(hub.nudges)) == ([job_id], [job_id], 1, 1)


async def test_twenty_submissions_without_a_key_are_twenty_jobs(hub: JobsHub) -> None:
    file_id = await hub.uploaded()
    jobs = await asyncio.gather(*(hub.created(training_file=file_id) for _ in range(20)))
    assert len({job["id"] for job in jobs}) == 20
    assert hub.folders() == sorted(await hub.job_ids())
    names = {job["hub"]["name"] for job in jobs}
    assert len(names) == 20
    positions = [(await hub.jobs.get(Principal(hub.tenant), job_id)).hub.queue_position for job_id in await hub.job_ids()]
    assert positions == sorted(positions)


async def test_a_key_that_two_processes_used_at_once_gives_the_job_of_the_faster_one(
    hub: JobsHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_id = await hub.uploaded()
    principal = Principal(hub.tenant)
    first = await hub.jobs.create(principal, request_for(file_id), "k")
    looks = []
    real = hub.jobs._jobs.find_by_key

    async def blind_at_first(tenant: str, key: str) -> Any:
        looks.append(key)
        return None if len(looks) == 1 else await real(tenant, key)

    monkeypatch.setattr(hub.jobs._jobs, "find_by_key", blind_at_first)
    second = await hub.jobs.create(principal, request_for(file_id), "k")
    assert second.id == first.id
    assert len(hub.checker.checks) == 2  # the loser had got as far as the insert
    assert hub.folders() == [first.id]
    looks.clear()
    with pytest.raises(ConflictError):
        await hub.jobs.create(principal, request_for(file_id, seed=5), "k")
    assert hub.folders() == [first.id]


async def test_a_key_of_another_body_is_a_conflict_and_of_another_tenant_is_not(hub: JobsHub) -> None:
    body = {"model": BASE, "training_file": await hub.uploaded()}
    headers = {"Idempotency-Key": "k" * 255}
    first = await hub.http.post("/v1/fine_tuning/jobs", json=body, headers=headers)
    assert first.status_code == 200
    other = await hub.http.post("/v1/fine_tuning/jobs", json=body | {"seed": 1}, headers=headers)
    assert first.json()["id"] in assert_refused(other, 409, code="idempotency_conflict")["message"]
    again = await hub.http.post("/v1/fine_tuning/jobs", json=body, headers=headers)
    assert again.json() == first.json()
    hub.act_for("tenant-other")
    foreign = await hub.http.post("/v1/fine_tuning/jobs", json=body, headers=headers)
    assert_refused(foreign, 404, code="file_not_found")


async def test_a_refused_request_does_not_use_up_its_key(hub: JobsHub) -> None:
    body = {"model": BASE, "training_file": await hub.uploaded(b"\n")}
    headers = {"Idempotency-Key": "k"}
    assert_refused(await hub.http.post("/v1/fine_tuning/jobs", json=body, headers=headers), 400)
    good = body | {"training_file": await hub.uploaded()}
    assert (await hub.http.post("/v1/fine_tuning/jobs", json=good, headers=headers)).status_code == 200


@pytest.mark.parametrize("when_s", [0.0, 0.005, 0.02, 0.05, 0.1])
async def test_a_caller_that_leaves_in_the_middle_leaves_a_whole_job_or_nothing(hub: JobsHub, when_s: float) -> None:
    file_id = await hub.uploaded()
    for _ in range(5):
        creation = asyncio.create_task(hub.jobs.create(Principal(hub.tenant), request_for(file_id)))
        await asyncio.sleep(when_s)
        creation.cancel()
        with suppress(asyncio.CancelledError):
            await creation
    assert hub.folders() == sorted(await hub.job_ids())
    for job_id in await hub.job_ids():
        assert hub.folder(job_id).training.is_file()


async def test_a_caller_that_leaves_during_the_check_leaves_nothing(hub: JobsHub) -> None:
    hub.checker.hold.clear()
    creation = asyncio.create_task(hub.jobs.create(Principal(hub.tenant), request_for(await hub.uploaded()), "k"))
    await asyncio.wait_for(hub.checker.begun.wait(), 5)
    assert len(hub.folders()) == 1
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert (hub.folders(), await hub.job_ids()) == ([], [])
    hub.checker.hold.set()
    job = await hub.jobs.create(Principal(hub.tenant), request_for(await hub.uploaded()), "k")
    assert hub.folders() == [job.id]


async def test_folders_without_a_job_are_removed_at_the_start_and_others_stay(
    hub: JobsHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await hub.created()

    async def lost(*_: Any) -> bool:
        raise StorageUnavailableError("away")

    with monkeypatch.context() as patch, pytest.raises(StorageUnavailableError):
        patch.setattr(hub.jobs._jobs, "insert", lost)
        await hub.jobs.create(Principal(hub.tenant), request_for(await hub.uploaded()))
    assert len(hub.folders()) == 2  # nobody knows yet whether it was committed
    await hub.jobs.remove_leftovers()
    assert len(hub.folders()) == 2
    for job_id in hub.folders():
        os.utime(hub.folder(job_id).path, (time.time() - ABANDONED_S - 1,) * 2)
    await hub.jobs.remove_leftovers()
    assert hub.folders() == [job["id"]]


async def test_a_job_that_is_being_accepted_while_another_process_starts_keeps_its_folder(hub: JobsHub) -> None:
    hub.checker.hold.clear()
    creation = asyncio.create_task(hub.jobs.create(Principal(hub.tenant), request_for(await hub.uploaded())))
    await asyncio.wait_for(hub.checker.begun.wait(), 5)
    (folder,) = hub.folders()
    os.utime(hub.folder(folder).path, (time.time() - CREATE_TIMEOUT_S - 600,) * 2)
    await hub.jobs.remove_leftovers()
    hub.checker.hold.set()
    job = await creation
    assert job.id == folder
    assert hub.folder(job.id).training.is_file()


async def test_a_deleted_file_does_not_hurt_a_job_that_has_copied_it(hub: JobsHub) -> None:
    file_id = await hub.uploaded()
    job = await hub.created(training_file=file_id)
    content = hub.folder(job["id"]).training.read_bytes()
    await hub.openai.files.delete(file_id)
    assert hub.folder(job["id"]).training.read_bytes() == content
    assert (await hub.openai.fine_tuning.jobs.retrieve(job["id"])).training_file == file_id


@pytest.mark.parametrize("status", ["queued", "paused", "interrupted"])
async def test_a_cancelled_job_that_nobody_works_on_keeps_its_logs_alone(hub: JobsHub, status: str) -> None:
    job_id = (await hub.created())["id"]
    folder = hub.folder(job_id)
    for part in (folder.work, folder.candidate, folder.tensorboard):
        part.mkdir()
        (part / "a").write_text("x")
    await hub.set(job_id, status=status)
    job = await hub.openai.fine_tuning.jobs.cancel(job_id)
    assert (job.status, job.error) == ("cancelled", None)
    assert job.finished_at is not None
    assert [path.name for path in folder.path.iterdir()] == ["tensorboard"]


async def test_a_running_job_is_asked_and_keeps_its_files_until_it_has_stopped(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    await hub.set(job_id, status="running", phase="training")
    hub.folder(job_id).work.mkdir()
    job = (await hub.http.post(f"/v1/fine_tuning/jobs/{job_id}/pause")).json()
    assert (job["status"], job["hub"]["wish"]) == ("running", "pause")
    assert_refused(await hub.http.post(f"/v1/fine_tuning/jobs/{job_id}/resume"), 409, code="invalid_job_state")
    job = (await hub.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")).json()
    assert (job["status"], job["hub"]["wish"]) == ("running", "cancel")
    assert_refused(await hub.http.post(f"/v1/fine_tuning/jobs/{job_id}/pause"), 409, code="invalid_job_state")
    assert hub.folder(job_id).work.is_dir()
    assert len(hub.nudges) == 3


async def test_a_trained_job_cannot_be_paused_any_more_and_can_be_cancelled(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    await hub.set(job_id, status="running", phase="checking")
    refused = await hub.http.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    assert "is being checked" in assert_refused(refused, 409, code="invalid_job_state")["message"]
    assert (await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}")).json()["hub"]["wish"] is None
    job = (await hub.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel")).json()
    assert job["hub"]["wish"] == "cancel"


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        ("queued", {"cancel", "pause", "resume"}),
        ("paused", {"cancel", "pause", "resume"}),
        ("interrupted", {"cancel", "resume"}),
        ("cancelled", {"cancel"}),
        ("failed", set()),
        ("succeeded", set()),
    ],
)
async def test_what_may_be_asked_of_a_job_depends_on_its_state_and_a_refusal_says_it(
    hub: JobsHub, status: str, allowed: set[str]
) -> None:
    for wish in ("cancel", "pause", "resume"):
        job_id = (await hub.created())["id"]
        await hub.set(job_id, status=status)
        answer = await hub.http.post(f"/v1/fine_tuning/jobs/{job_id}/{wish}")
        if wish in allowed:
            assert answer.status_code == 200, answer.text
        else:
            assert status in assert_refused(answer, 409, code="invalid_job_state")["message"]


async def test_a_failed_job_with_a_checkpoint_goes_on_and_its_error_is_gone(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    await hub.set(
        job_id, status="failed", phase="training", attempts=3, error={"code": "training_died", "message": "x"}, ended_at="now"
    )
    (hub.folder(job_id).work / "checkpoint-5").mkdir(parents=True)
    job = (await hub.http.post(f"/v1/fine_tuning/jobs/{job_id}/resume")).json()
    assert (job["status"], job["error"], job["finished_at"]) == ("queued", None, None)
    assert (job["hub"]["attempts"], job["hub"]["phase"]) == (3, "waiting")
    events = (await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events")).json()["data"]
    assert events[0]["message"] == "The job was resumed and is queued."


async def test_many_wishes_at_once_end_in_one_state_with_one_event_each_change(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    path = f"/v1/fine_tuning/jobs/{job_id}/cancel"
    answers = await asyncio.gather(*(hub.http.post(path) for _ in range(10)))
    assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(200, "cancelled")}
    events = (await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events")).json()["data"]
    assert [event["message"] for event in events].count("The job was cancelled.") == 1
    assert len(hub.nudges) == 2


async def test_a_client_that_hangs_up_during_the_check_leaves_nothing(hub: JobsHub) -> None:
    hub.checker.hold.clear()
    file_id = await hub.uploaded()
    async with official_clients(hub.app) as clients:
        creation = asyncio.create_task(clients.asynchronous.fine_tuning.jobs.create(model=BASE, training_file=file_id))
        await asyncio.wait_for(hub.checker.begun.wait(), 5)
        assert len(hub.folders()) == 1
        creation.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creation
        for _ in range(100):
            if not hub.folders():
                break
            await asyncio.sleep(0.05)
    assert (hub.folders(), await hub.job_ids(), hub.nudges) == ([], [], [])


async def test_jobs_beyond_the_most_that_may_be_open_are_refused_before_their_data_are_copied(
    hub: JobsHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_table, "MOST_OPEN", 2)
    body = {"model": BASE, "training_file": await hub.uploaded()}
    headers = {"Idempotency-Key": "k"}
    first = (await hub.http.post("/v1/fine_tuning/jobs", json=body, headers=headers)).json()
    second = await hub.created()
    await hub.set(second["id"], status="running", phase="training")
    refused = await hub.http.post("/v1/fine_tuning/jobs", json=body)
    assert "cancel one" in assert_refused(refused, 429, code="too_many_open_jobs")["message"]
    assert refused.headers["retry-after"] == "60"
    assert (len(hub.checker.checks), hub.folders()) == (2, sorted([first["id"], second["id"]]))
    again = await hub.http.post("/v1/fine_tuning/jobs", json=body, headers=headers)
    assert again.json()["id"] == first["id"], "it is no further job"
    hub.act_for("tenant-other")
    assert_refused(await hub.http.post("/v1/fine_tuning/jobs", json=body), 404, code="file_not_found")
    hub.act_for(hub.tenant)
    await hub.set(second["id"], status="succeeded")
    assert (await hub.http.post("/v1/fine_tuning/jobs", json=body)).status_code == 200


async def test_of_many_jobs_at_once_no_more_are_taken_than_may_be_open_and_the_others_leave_nothing(
    hub: JobsHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_table, "MOST_OPEN", 3)
    file_id = await hub.uploaded()
    hub.checker.hold.clear()
    creations = [asyncio.create_task(hub.jobs.create(Principal(hub.tenant), request_for(file_id))) for _ in range(8)]
    while len(hub.checker.checks) < 8:  # noqa: ASYNC110  # the checker tells of the first one only
        await asyncio.sleep(0.01)
    hub.checker.hold.set()
    ended = await asyncio.gather(*creations, return_exceptions=True)
    assert sum(isinstance(one, RateLimitError) for one in ended) == 5
    assert len(await hub.job_ids()) == 3
    assert hub.folders() == sorted(await hub.job_ids())


@pytest.mark.parametrize("field", ["training_file", "dataset_path"])
async def test_data_that_the_disk_has_no_room_for_twice_are_not_copied(
    hub: JobsHub, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    content = jsonl(ROWS)
    (hub.home / "datasets").mkdir()
    (hub.home / "datasets" / "hỏi đáp.jsonl").write_bytes(content)
    name = await hub.uploaded() if field == "training_file" else "hỏi đáp.jsonl"
    path, key = ("/v1/fine_tuning/jobs", "model") if field == "training_file" else ("/api/v1/training/jobs", "base_model")
    body = {key: BASE, field: name} | ({} if field == "training_file" else {"name": "shop"})
    free = 2 * len(content) - 1
    monkeypatch.setattr(job_data.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    refused = await hub.http.post(path, json=body)
    assert "disk is full" in assert_refused(refused, 503, code="no_disk_space")["message"]
    assert refused.headers["retry-after"] == "60"
    assert (hub.folders(), await hub.job_ids()) == ([], [])
    free += 1
    assert (await hub.http.post(path, json=body)).status_code == 200
