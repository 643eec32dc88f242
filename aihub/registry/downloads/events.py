"""What a download looks like from outside: one immutable snapshot per change, and events made of them."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt

from aihub.registry.downloads.fetching import Step

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
FINAL_STATUSES: frozenset[JobStatus] = frozenset({"succeeded", "failed", "cancelled", "interrupted"})


class JobError(BaseModel):
    """Why a job failed; the message says what to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str
    message: str


class Job(BaseModel):
    """One download at one moment.

    Attributes:
        id: Names it in the API.
        key: The model's key.
        status: `interrupted` means that the hub stopped in the middle; a new start goes on with the bytes that are there.
        step: What it does now.
        sequence: Grows with each change.
        done_bytes: Of this step.
        total_bytes: Of this step; None while nobody knows.
        bytes_per_s: Mean speed since the job runs; None before anything has arrived.
        created_at: Seconds since 1970, as all times.
        digest: Of what was installed, when it succeeded.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    key: str
    status: JobStatus
    step: Step = "waiting"
    sequence: NonNegativeInt = 0
    done_bytes: NonNegativeInt = 0
    total_bytes: NonNegativeInt | None = None
    bytes_per_s: NonNegativeFloat | None = None
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    digest: str | None = None
    error: JobError | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in FINAL_STATUSES


@dataclass(frozen=True, slots=True)
class JobEvent:
    """A change of a job; the last one of a stream has the type `end`."""

    type: Literal["progress", "end"]
    job: Job

    @classmethod
    def of(cls, job: Job) -> "JobEvent":
        return cls("end" if job.is_finished else "progress", job)
