"""The jobs API through the official client."""

import openai
import pytest

from tests.unit.finetuning.jobs_hub import BASE, NEED_BYTES, ROWS, JobsHub, jsonl


async def test_a_file_for_fine_tuning_comes_back_as_it_was(hub: JobsHub) -> None:
    content = jsonl(ROWS)
    file = await hub.openai.files.create(file=("cửa hàng.jsonl", content), purpose="fine-tune")
    assert (file.purpose, file.filename, file.bytes) == ("fine-tune", "cửa hàng.jsonl", len(content))
    assert (await hub.openai.files.content(file.id)).content == content
    assert [item.id for item in (await hub.openai.files.list(purpose="fine-tune")).data] == [file.id]


async def test_a_job_with_a_file_and_a_model_alone_is_queued_with_settings_chosen_by_its_rows(hub: JobsHub) -> None:
    file_id = await hub.uploaded()
    job = await hub.openai.fine_tuning.jobs.create(model=BASE, training_file=file_id)
    assert (job.object, job.status, job.model, job.training_file) == ("fine_tuning.job", "queued", BASE, file_id)
    assert job.id.startswith("ftjob-")
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (12, 4)
    assert job.hyperparameters.learning_rate_multiplier == 8.0  # 512 wide, an eighth of 4,096
    assert (job.fine_tuned_model, job.finished_at, job.error, job.result_files, job.integrations) == (None, None, None, [], [])
    assert job.method is not None
    assert (job.method.type, job.organization_id) == ("supervised", hub.tenant)
    details = job.model_extra["hub"] if job.model_extra else {}
    assert (details["phase"], details["queue_position"] >= 1, details["datasets"]["training"]["rows"]) == ("waiting", True, 30)
    assert details["settings"]["rank"] == 16
    assert len(hub.nudges) == 1
    assert hub.folder(job.id).training.read_bytes() == jsonl(ROWS)
    async with hub.database.connection() as connection:
        cursor = await connection.execute("SELECT need_bytes, attempts, wish FROM finetuning_jobs WHERE id = %s", (job.id,))
        assert await cursor.fetchone() == (NEED_BYTES, 0, None)


async def test_everything_the_client_can_say_arrives(hub: JobsHub) -> None:
    job = await hub.openai.fine_tuning.jobs.create(
        model=BASE,
        training_file=await hub.uploaded(),
        validation_file=await hub.uploaded(jsonl(ROWS[:3])),
        suffix="Cửa hàng Đà Lạt",
        seed=7,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 5, "batch_size": "auto", "learning_rate_multiplier": 0.5}},
        },
        metadata={"chủ": "Phở Hà Nội 🍜", "trống": ""},
        extra_body={"lora": {"rank": 32, "alpha": 64, "method": "qlora", "target_modules": ["q_proj"], "packing": False}},
    )
    assert (job.seed, job.metadata) == (7, {"chủ": "Phở Hà Nội 🍜", "trống": ""})
    assert (job.hyperparameters.n_epochs, job.hyperparameters.learning_rate_multiplier) == (5, 0.5)
    again = await hub.openai.fine_tuning.jobs.retrieve(job.id)
    details = again.model_extra["hub"] if again.model_extra else {}
    assert details["name"] == "cua-hang-da-lat"
    chosen = {
        name: details["settings"][name] for name in ("rank", "alpha", "method", "target_modules", "packing", "learning_rate")
    }
    assert chosen == {
        "rank": 32,
        "alpha": 64,
        "method": "qlora",
        "target_modules": ["q_proj"],
        "packing": False,
        "learning_rate": 1e-4,
    }
    assert details["datasets"]["validation"]["leaked_rows"] == 3
    warnings = [event.message async for event in hub.openai.fine_tuning.jobs.list_events(job.id) if event.level == "warn"]
    assert warnings == ["In the validation file, 3 row(s) are in the training file, too, so their loss says little."]


async def test_a_finished_job_shows_its_adapter_and_a_failed_one_its_error(hub: JobsHub) -> None:
    good, bad = [(await hub.created())["id"] for _ in range(2)]
    await hub.set(good, status="running", phase="training", step=10, steps=40, seconds_left=60.0)
    await hub.stepped(good, 10)
    running = await hub.openai.fine_tuning.jobs.retrieve(good)
    assert running.estimated_finish is not None
    details = running.model_extra["hub"] if running.model_extra else {}
    assert (details["step"], details["steps"], details["loss"], details["eval_loss"]) == (10, 40, 0.2, 0.3)
    assert (details["tokens_per_s"], details["memory_bytes"], details["queue_position"]) == (100.5, 1000, None)
    await hub.set(good, status="succeeded", adapter_id=f"{BASE}:shop@v1", trained_tokens=99, ended_at="now")
    await hub.set(bad, status="failed", error={"code": "training_diverged", "message": "Mất mát không là số."}, ended_at="now")
    job = await hub.openai.fine_tuning.jobs.retrieve(good)
    assert (job.status, job.fine_tuned_model, job.trained_tokens, job.error) == ("succeeded", f"{BASE}:shop@v1", 99, None)
    assert job.finished_at is not None
    failed = await hub.openai.fine_tuning.jobs.retrieve(bad)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("training_diverged", "Mất mát không là số.")


async def test_cancel_pause_and_resume_through_the_client(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    jobs = hub.openai.fine_tuning.jobs
    assert str((await jobs.pause(job_id)).status) == "paused"
    assert (await jobs.resume(job_id)).status == "queued"
    assert (await jobs.cancel(job_id)).status == "cancelled"
    assert (await jobs.cancel(job_id)).status == "cancelled"
    with pytest.raises(openai.ConflictError) as refused:
        await jobs.resume(job_id)
    assert refused.value.code == "invalid_job_state"


async def test_pages_go_back_to_the_first_job_and_metadata_filters_them(hub: JobsHub) -> None:
    file_id = await hub.uploaded()
    made = [
        (await hub.created(training_file=file_id, **({"metadata": {"số": str(n % 2), "tất cả": ""}} if n else {})))["id"]
        for n in range(5)
    ]
    jobs = hub.openai.fine_tuning.jobs
    assert [job.id async for job in jobs.list(limit=2)] == made[::-1]
    page = await jobs.list(limit=3)
    assert ([job.id for job in page.data], page.has_more) == (made[:1:-1], True)
    assert [job.id async for job in jobs.list(metadata={"số": "1"})] == [made[3], made[1]]
    assert [job.id async for job in jobs.list(metadata={"tất cả": "", "số": "0"})] == [made[4], made[2]]
    assert [job.id async for job in jobs.list(extra_query={"metadata": "null"})] == [made[0]]
    with pytest.raises(openai.BadRequestError, match="after"):
        await jobs.list(after="ftjob-unknown")


async def test_events_and_checkpoints_are_paged_newest_first(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    for number in range(25):
        await hub.told(job_id, f"bước {number}", {"loss": number})
    events = [event async for event in hub.openai.fine_tuning.jobs.list_events(job_id, limit=10)]
    assert [event.message for event in events[:25]] == [f"bước {number}" for number in reversed(range(25))]
    assert events[0].data == {"loss": 24}
    assert events[-1].message == "The job was created and is queued."
    await hub.stepped(job_id, 20)
    steps = [point.step_number async for point in hub.openai.fine_tuning.jobs.checkpoints.list(job_id, limit=3)]
    assert steps == [20, 15, 10, 5]
    first = (await hub.openai.fine_tuning.jobs.checkpoints.list(job_id, limit=1)).data[0]
    assert (first.fine_tuning_job_id, first.metrics.valid_loss, first.metrics.step) == (job_id, 0.15, 20)
    for page in (hub.openai.fine_tuning.jobs.list_events, hub.openai.fine_tuning.jobs.checkpoints.list):
        with pytest.raises(openai.BadRequestError, match="after"):
            await page(job_id, after="ftevent-x")


async def test_another_tenant_sees_and_changes_nothing(hub: JobsHub) -> None:
    job_id = (await hub.created())["id"]
    file_id = await hub.uploaded()
    hub.act_for("tenant-other")
    jobs = hub.openai.fine_tuning.jobs
    assert (await jobs.list()).data == []
    for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
        with pytest.raises(openai.NotFoundError) as missing:
            await call(job_id)
        assert missing.value.code == "job_not_found"
    for path in ("", "/status", "/progress"):
        assert (await hub.http.get(f"/api/v1/training/jobs/{job_id}{path}")).status_code == 404
    assert (await hub.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?stream=true")).status_code == 404
    assert (await hub.http.delete(f"/api/v1/training/jobs/{job_id}")).status_code == 404
    with pytest.raises(openai.NotFoundError) as foreign:
        await jobs.create(model=BASE, training_file=file_id)
    assert foreign.value.code == "file_not_found"
    hub.act_for(hub.tenant)
    assert (await jobs.retrieve(job_id)).status == "queued"
