"""Where a job keeps its files in the state folder, from its acceptance until its adapter is published."""

from dataclasses import dataclass
from pathlib import Path

JOBS_FOLDER = Path("finetuning") / "jobs"


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Files of one job.

    Attributes:
        path: The folder.
    """

    path: Path

    @classmethod
    def of(cls, home: Path, job_id: str) -> "JobFolder":
        """The folder of a job; `home` is the state folder."""
        return cls(home / JOBS_FOLDER / job_id)

    @property
    def training(self) -> Path:
        """Copy of the training file as it was accepted."""
        return self.path / "training.data"

    @property
    def validation(self) -> Path:
        """Copy of the validation file; not there without one."""
        return self.path / "validation.data"

    @property
    def work(self) -> Path:
        """Checkpoints."""
        return self.path / "work"

    @property
    def candidate(self) -> Path:
        """The trained adapter before it is published."""
        return self.path / "adapter"

    @property
    def questions(self) -> Path:
        """What the serving engine is asked before the adapter is published; see `aihub.finetuning.questions`."""
        return self.path / "questions.json"

    @property
    def ray(self) -> Path:
        """Notes that Ray Train keeps while it runs."""
        return self.path / "ray"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's logs, which stay after the job's end."""
        return self.path / "tensorboard"
