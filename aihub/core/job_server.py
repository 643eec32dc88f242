"""Jobs of the cluster's own job server, which outlive Serve's restarts, as a Protocol. Ray implements it; tests use a fake."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

JobState = Literal["alive", "stopped", "ended", "unknown"]
"""What became of a job; `stopped`: by hand, `unknown`: the cluster was started anew since."""


class JobServerError(RuntimeError):
    """The cluster's job server does not answer, or refuses."""


class Jobs(Protocol):
    """Each start of a piece of work is a job of its own: `name` says which work, `attempt` which start, from 1.

    All three block and raise `JobServerError`.
    """

    def submit(self, command: Sequence[str], name: str, attempt: int, *, metadata: Mapping[str, str]) -> None:
        """Start a job.

        Args:
            command: A Python module and its arguments.
            metadata: Shown beside the job.
        """

    def state(self, name: str, attempt: int) -> JobState:
        """Tell what became of a job."""
        ...

    def stop(self, name: str, attempt: int) -> None:
        """End a job's processes, by force after a few seconds; one that has ended stays as it is."""
