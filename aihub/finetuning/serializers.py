"""From rows to wire types."""

import time
from collections.abc import Sequence
from typing import TypeVar

from aihub.core.schemas import Page
from aihub.finetuning.requests import DEFAULT_LEARNING_RATE
from aihub.finetuning.schemas import (
    CheckpointMetrics,
    FineTuningCheckpoint,
    FineTuningEvent,
    FineTuningJob,
    HyperparametersInForce,
    JobDetails,
    JobError,
    MethodInForce,
    ProgressPoint,
    SupervisedMethodInForce,
)
from aihub.finetuning.tables.events import CheckpointRecord, EventRecord, ProgressRecord
from aihub.finetuning.tables.jobs import JobRecord
from aihub.finetuning.training_schemas import TrainingJob, TrainingStatus

FINISHED = frozenset({"succeeded", "failed", "cancelled"})


Item = TypeVar("Item", FineTuningJob, FineTuningEvent, FineTuningCheckpoint)


def page(items: Sequence[Item], has_more: bool) -> Page[Item]:
    """One page of a listing."""
    return Page(
        data=list(items),
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
        has_more=has_more,
    )


def job_object(job: JobRecord) -> FineTuningJob:
    settings = job.settings
    in_force = HyperparametersInForce(
        n_epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        learning_rate_multiplier=round(settings["learning_rate"] / DEFAULT_LEARNING_RATE, 6),
    )
    is_running = job.status == "running"
    return FineTuningJob(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.ended_at if job.status in FINISHED else None,
        estimated_finish=round(time.time() + job.seconds_left) if is_running and job.seconds_left is not None else None,
        model=job.base_model,
        fine_tuned_model=job.adapter_id if job.status == "succeeded" else None,
        status=job.status,
        error=_error(job),
        training_file=job.training_file,
        validation_file=job.validation_file,
        hyperparameters=in_force,
        method=MethodInForce(supervised=SupervisedMethodInForce(hyperparameters=in_force)),
        seed=settings["seed"],
        trained_tokens=job.trained_tokens,
        organization_id=job.tenant_id,
        metadata=job.metadata,
        hub=_details(job),
    )


def event_object(event: EventRecord) -> FineTuningEvent:
    return FineTuningEvent(
        id=event.id, created_at=event.created_at, level=event.level, type=event.type, message=event.message, data=event.data
    )


def checkpoint_object(job: JobRecord, checkpoint: CheckpointRecord) -> FineTuningCheckpoint:
    return FineTuningCheckpoint(
        id=checkpoint.id,
        created_at=checkpoint.created_at,
        fine_tuning_job_id=job.id,
        fine_tuned_model_checkpoint=f"{job.base_model}:{job.name}:ckpt-step-{checkpoint.step}",
        step_number=checkpoint.step,
        metrics=CheckpointMetrics(
            step=checkpoint.step,
            train_loss=checkpoint.loss,
            valid_loss=checkpoint.eval_loss,
            # Every evaluation is over all validation rows.
            full_valid_loss=checkpoint.eval_loss,
        ),
    )


def progress_point(row: ProgressRecord) -> ProgressPoint:
    return ProgressPoint(
        step=row.step,
        loss=row.loss,
        eval_loss=row.eval_loss,
        tokens_per_s=row.tokens_per_s,
        memory_bytes=row.memory_bytes,
        seconds_left=row.seconds_left,
        created_at=row.created_at,
    )


def training_job(job: FineTuningJob) -> TrainingJob:
    """A job in the shape of the earlier service."""
    settings = job.hub.settings
    return TrainingJob(
        job_id=job.id,
        id=job.id,
        name=job.hub.name,
        base_model=job.model,
        training_type=settings["method"],
        dataset=job.training_file,
        validation_dataset=job.validation_file,
        learning_rate=settings["learning_rate"],
        num_epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        status=job.status,
        progress=share_done(job),
        adapter_id=job.fine_tuned_model,
        error=job.error,
        created_at=job.created_at,
        started_at=job.hub.started_at,
        finished_at=job.finished_at,
    )


def training_status(job: FineTuningJob) -> TrainingStatus:
    hub = job.hub
    return TrainingStatus(
        job_id=job.id,
        status=job.status,
        phase=hub.phase,
        queue_position=hub.queue_position,
        wait_reason=hub.wait_reason,
        step=hub.step,
        steps=hub.steps,
        progress=share_done(job),
        loss=hub.loss,
        eval_loss=hub.eval_loss,
        tokens_per_s=hub.tokens_per_s,
        memory_bytes=hub.memory_bytes,
        seconds_left=hub.seconds_left,
        adapter_id=job.fine_tuned_model,
        error=job.error,
    )


def share_done(job: FineTuningJob) -> float:
    """Share of the steps that is done, 0 to 1; an early stop ends with 1, too."""
    if job.status == "succeeded":
        return 1.0
    return round(min(1.0, job.hub.step / job.hub.steps), 4) if job.hub.steps else 0.0


def _details(job: JobRecord) -> JobDetails:
    return JobDetails(
        name=job.name,
        phase=job.phase,
        queue_position=job.queue_position,
        wait_reason=job.wait_reason,
        wish=job.wish,
        step=job.step,
        steps=job.steps,
        loss=job.loss,
        eval_loss=job.eval_loss,
        tokens_per_s=job.tokens_per_s,
        memory_bytes=job.memory_bytes,
        seconds_left=job.seconds_left,
        settings=job.settings,
        datasets=job.datasets,
        metrics=job.metrics,
        evaluation=job.evaluation,
        adapter_id=job.adapter_id,
        attempts=job.attempts,
        started_at=job.started_at,
    )


def _error(job: JobRecord) -> JobError | None:
    if job.error is None or job.status in {"queued", "running", "succeeded"}:
        return None
    return JobError(
        code=str(job.error.get("code") or "training_failed"),
        message=str(job.error.get("message") or f"The job ended as {job.status}."),
        param=job.error.get("param"),
    )
