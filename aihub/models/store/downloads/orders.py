"""What a fetcher is asked and returns, and what a download looks like from outside: one immutable snapshot per change."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt

from aihub.models.configuration import HubConfiguration
from aihub.models.keys import ModelKey
from aihub.models.store.catalogue import CatalogueEntry

Step = Literal["waiting", "looking up", "downloading", "verifying", "unpacking", "installing", "done"]

Report = Callable[[Step, int, int | None], None]
"""Called on the event loop with the step, the bytes of it that are done, and all its bytes (None while nobody knows)."""


@dataclass(frozen=True, slots=True)
class Order:
    """One model to get.

    Attributes:
        key: The model.
        entry: What the catalogue knows of it, if it does.
        staging: Private folder of this key; what an earlier try left is still there.
        configuration: The settings that hold for this job.
        installed: Digest of the version in use now; None when nothing is installed.
    """

    key: ModelKey
    entry: CatalogueEntry | None
    staging: Path
    configuration: HubConfiguration
    installed: str | None

    @property
    def content(self) -> Path:
        """Where the files to install are put together."""
        return self.staging / "content"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The outcome.

    Attributes:
        digest: What identifies the content.
        source: Where it came from, for people.
        folder: The finished files, ready to be installed; None when the provider keeps them itself or nothing changed.
    """

    digest: str
    source: str
    folder: Path | None


class ModelFetcher(Protocol):
    """Gets the models of one provider."""

    async def fetch(self, order: Order, report: Report) -> Fetched:
        """Get the model; cancelling stops at once and keeps what can be continued.

        Raises:
            HubError: It cannot be had; the message says why and what to do.
        """
        ...


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
