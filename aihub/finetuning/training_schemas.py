"""Wire types of `/api/v1/training/jobs`, the earlier service's shape of a job. Times are Unix seconds."""

from typing import Annotated, Literal

from pydantic import Field

from aihub.core.schemas import ClosedModel, Metadata, ModelName, ObjectId, ResponseModel
from aihub.finetuning.schemas import (
    BatchSize,
    DatasetPath,
    Epochs,
    JobError,
    JobPhase,
    JobStatus,
    LoraSettings,
    ProgressPoint,
    Seed,
    Suffix,
)


class TrainingJobCreate(ClosedModel):
    """A new job in the shape of the earlier service; exactly one of `dataset_path`, `file_id` and `training_file`.

    Attributes:
        name: Becomes the adapter's name, as `suffix` does.
        dataset_path: Below `datasets` in the state folder.
        file_id, training_file: Of an uploaded file; two names of one field.
    """

    name: Suffix
    base_model: ModelName
    dataset_path: DatasetPath | None = None
    file_id: ObjectId | None = None
    training_file: ObjectId | None = None
    validation_dataset_path: DatasetPath | None = None
    validation_file: ObjectId | None = None
    training_type: Literal["lora", "qlora"] = "lora"
    learning_rate: Annotated[float, Field(ge=1e-8, le=0.1, allow_inf_nan=False)] | None = None
    num_epochs: Epochs | None = None
    batch_size: BatchSize | None = None
    seed: Seed | None = None
    metadata: Metadata | None = None
    lora: LoraSettings | None = None


class TrainingJob(ResponseModel):
    """A job in the shape of the earlier service; `id` and `job_id` are the same.

    Attributes:
        progress: Share of the steps that is done, 0 to 1; 1 once the job has succeeded.
        adapter_id: What to ask for as `model` once the job has succeeded.
    """

    job_id: str
    id: str
    name: str
    base_model: str
    training_type: Literal["lora", "qlora"]
    dataset: str
    validation_dataset: str | None
    learning_rate: float
    num_epochs: int
    batch_size: int
    status: JobStatus
    progress: float
    adapter_id: str | None
    error: JobError | None
    created_at: int
    started_at: int | None
    finished_at: int | None


class TrainingStatus(ResponseModel):
    """How far a job is; see `JobDetails`."""

    job_id: str
    status: JobStatus
    phase: JobPhase
    queue_position: int | None
    wait_reason: str | None
    step: int
    steps: int | None
    progress: float
    loss: float | None
    eval_loss: float | None
    tokens_per_s: float | None
    memory_bytes: int | None
    seconds_left: float | None
    adapter_id: str | None
    error: JobError | None


class TrainingJobs(ResponseModel):
    """Newest first; with `has_more`, the next page is `?after=` the last one's id."""

    jobs: list[TrainingJob]
    has_more: bool


class TrainingProgress(ResponseModel):
    """Rows of a training by step; a long training's are thinned evenly."""

    job_id: str
    points: list[ProgressPoint]
