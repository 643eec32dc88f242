"""Wire types of `/v1/fine_tuning/jobs`, in OpenAI's shapes. Times are Unix seconds.

Bodies of OpenAI's API ignore unknown fields, as newer clients send some; objects inside them that change what is trained refuse
unknown keys.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, StringConstraints

from aihub.core.schemas import ClosedModel, LenientModel, Metadata, ModelName, NullIsAbsent, ObjectId, ResponseModel
from aihub.finetuning.datasets.paths import MAX_NAME_CHARS
from aihub.finetuning.settings import FineTuningSettings, ModuleName

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled", "interrupted"]
"""OpenAI's, and `paused` and `interrupted` (its cluster is gone; it can be resumed)."""

JobPhase = Literal["waiting", "training", "evaluating", "checking"]

MAX_SUFFIX_CHARS = 64
"""Longest `suffix` of OpenAI's API."""

Auto = Literal["auto"]
Epochs = Annotated[int, Field(ge=1, le=1000)]
BatchSize = Annotated[int, Field(ge=1, le=512)]
Multiplier = Annotated[float, Field(gt=0.0, le=500.0, allow_inf_nan=False)]
Suffix = Annotated[str, StringConstraints(min_length=1, max_length=MAX_SUFFIX_CHARS)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
DatasetPath = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS)]


class Hyperparameters(ClosedModel):
    """OpenAI's three; `auto` leaves one to the hub.

    Attributes:
        learning_rate_multiplier: Of the default of `FineTuningSettings.learning_rate`.
    """

    n_epochs: Auto | Epochs = "auto"
    batch_size: Auto | BatchSize = "auto"
    learning_rate_multiplier: Auto | Multiplier = "auto"


class SupervisedMethod(ClosedModel):
    hyperparameters: Hyperparameters | None = None


class Method(LenientModel):
    """How to learn; only `supervised` is done here."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedMethod | None = None


class LoraSettings(NullIsAbsent, FineTuningSettings):
    """Any of the hub's own settings; those left out are chosen by the hub."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    # Strict types take no list for a tuple otherwise.
    target_modules: Annotated[tuple[ModuleName, ...], Field(min_length=1, max_length=64, strict=False)] | None = None

    def explicit(self) -> dict[str, JsonValue]:
        """Return what the client has set, as JSON values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)


class JobCreate(LenientModel):
    """A new job.

    Attributes:
        suffix: Becomes the adapter's name: `Cửa hàng 1` gives `cua-hang-1`.
        lora: The hub's own settings; they win over `auto`, and must not contradict a number.
        integrations: Must be empty.
    """

    model: ModelName
    training_file: ObjectId
    validation_file: ObjectId | None = None
    suffix: Suffix | None = None
    seed: Seed | None = None
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    metadata: Metadata | None = None
    integrations: list[JsonValue] | None = None
    lora: LoraSettings | None = None


class FineTuningRequest(ClosedModel):
    """What both bodies come to.

    Attributes:
        model_param: What the body calls the base model, for errors.
        training_file: Id of an uploaded file; None with `dataset_path`. The two of `validation` likewise.
        name: The adapter's; None takes one from the job's id.
        settings: Fields of `FineTuningSettings` that the client has chosen.
    """

    model: ModelName
    model_param: Literal["model", "base_model"] = "model"
    training_file: ObjectId | None = None
    dataset_path: DatasetPath | None = None
    validation_file: ObjectId | None = None
    validation_dataset_path: DatasetPath | None = None
    name: str | None = None
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    metadata: Metadata | None = None


class JobError(ResponseModel):
    code: str
    message: str
    param: str | None = None


class HyperparametersInForce(ResponseModel):
    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


class SupervisedMethodInForce(ResponseModel):
    hyperparameters: HyperparametersInForce


class MethodInForce(ResponseModel):
    type: Literal["supervised"] = "supervised"
    supervised: SupervisedMethodInForce


class JobDetails(ResponseModel):
    """What OpenAI's job has no field for.

    Attributes:
        name: The adapter's.
        queue_position: From 1; None unless queued.
        wait_reason: Why a queued job has not begun, as a sentence.
        wish: What a running job was asked for and has not done yet.
        step: Steps done.
        steps: Steps in all; None before the first one.
        loss, eval_loss: The last ones, in nats a token.
        memory_bytes: The most the training has taken.
        seconds_left: Estimate of the training alone.
        settings: All of `FineTuningSettings`.
        datasets: Reports of the check: `training`, and `validation` where there is such a file.
        metrics: How the training went, once it has ended.
        evaluation: The adapter beside its base on held-out rows, once it was compared.
        attempts: Starts of the training's process.
    """

    name: str
    phase: JobPhase
    queue_position: int | None
    wait_reason: str | None
    wish: Literal["cancel", "pause"] | None
    step: int
    steps: int | None
    loss: float | None
    eval_loss: float | None
    tokens_per_s: float | None
    memory_bytes: int | None
    seconds_left: float | None
    settings: Mapping[str, Any]
    datasets: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    evaluation: Mapping[str, Any] | None
    adapter_id: str | None
    attempts: int
    started_at: int | None


class FineTuningJob(ResponseModel):
    """OpenAI's `fine_tuning.job`, and `hub`.

    Attributes:
        fine_tuned_model: Versioned id of the adapter once the job has succeeded.
        training_file: Id of the file, or `datasets/...` for one of the state folder.
        organization_id: The tenant.
        trained_tokens: Learned tokens of one epoch, once the training has ended.
    """

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    id: str
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    status: JobStatus
    error: JobError | None
    training_file: str
    validation_file: str | None
    result_files: list[str] = Field(default_factory=list)
    hyperparameters: HyperparametersInForce
    method: MethodInForce
    seed: int
    trained_tokens: int | None
    organization_id: str
    integrations: list[JsonValue] = Field(default_factory=list)
    metadata: Metadata | None
    hub: JobDetails


class FineTuningEvent(ResponseModel):
    """OpenAI's `fine_tuning.job.event`."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: Mapping[str, Any] | None


class CheckpointMetrics(ResponseModel):
    step: int
    train_loss: float | None
    valid_loss: float | None
    full_valid_loss: float | None


class FineTuningCheckpoint(ResponseModel):
    """OpenAI's `fine_tuning.job.checkpoint`: a step that a job can be resumed from. It is not served; the adapter is."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    id: str
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: CheckpointMetrics


class ProgressPoint(ResponseModel):
    """Where a training stood after a step; see `aihub.finetuning.results.StepReport`."""

    step: int
    loss: float | None
    eval_loss: float | None
    tokens_per_s: float
    memory_bytes: int
    seconds_left: float
    created_at: int
