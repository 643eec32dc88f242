"""What a worker of a fine-tuning is told and what it answers; light, as the job's driver has no use for torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.finetuning.job_folder import JobFolder
from aihub.finetuning.settings import FineTuningSettings


@dataclass(frozen=True, slots=True)
class WorkerTask:
    """What a worker has to know.

    Attributes:
        dsn: The hub's PostgreSQL.
        attempt: Which start of the job this is.
        folder: The job's.
        base: Folder of the base model, and `base_name` what it is called.
        training_sha256: Of the training file as it was accepted, likewise `validation_sha256`, which is None without such a file.
        current: Versioned id and folder of the adapter that is promoted under the job's name; None without one.
    """

    dsn: str
    tenant: str
    job_id: str
    attempt: int
    folder: JobFolder
    base: Path
    base_name: str
    settings: FineTuningSettings
    training_sha256: str
    validation_sha256: str | None
    current: tuple[str, Path] | None


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """What a job's row keeps: an `AdapterMetrics`, an `EvaluationReport`, both as plain values."""

    metrics: dict[str, Any]
    evaluation: dict[str, Any]
    trained_tokens: int
