"""Ray jobs that train: submitted to the cluster's own job server, so that they outlive Serve's restarts."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from aihub.core.job_server import JobServerError, JobState
from deployments.ray_compat import find_job_server

ROOT = Path(__file__).resolve().parents[1]
JOB_VARIABLES = {
    "RAY_JOB_STOP_WAIT_TIME_S": "5",
    # Threads of OpenMP that wait for each other would burn the cores that serving needs.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Of a job's processes, its workers included."""


class TrainingJobs:
    """Blocking; satisfies `Jobs`. A job is named as the row of its training, from the second start on with a number."""

    def __init__(self) -> None:
        self._client: JobSubmissionClient | None = None

    def submit(self, command: Sequence[str], name: str, attempt: int, *, metadata: Mapping[str, str]) -> None:
        """Start a training.

        Raises:
            JobServerError: The job server does not take it.
        """
        # On a machine with two clusters Ray tells a job, and what the job starts, the address of either.
        cluster = ray.get_runtime_context().gcs_address
        with self._server() as server:
            server.submit_job(
                entrypoint=shlex.join([sys.executable, "-m", *command, "--cluster", cluster]),
                submission_id=job_name(name, attempt),
                metadata=dict(metadata),
                # The working directory is the project's, as for every process of the hub.
                runtime_env={"env_vars": JOB_VARIABLES | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster}},
            )

    def state(self, name: str, attempt: int) -> JobState:
        """Tell what became of a job.

        Raises:
            JobServerError: Nobody can tell now.
        """
        with self._server() as server:
            try:
                status = server.get_job_status(job_name(name, attempt))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return "unknown"
                raise
        if status in {JobStatus.PENDING, JobStatus.RUNNING}:
            return "alive"
        return "stopped" if status == JobStatus.STOPPED else "ended"

    def stop(self, name: str, attempt: int) -> None:
        """End a job's processes, by force after ten seconds; one that has ended stays as it is.

        Raises:
            JobServerError: The job server does not answer.
        """
        with self._server() as server:
            server.stop_job(job_name(name, attempt))

    @contextmanager
    def _server(self) -> Iterator[JobSubmissionClient]:
        try:
            client = self._client or JobSubmissionClient(find_job_server())
            self._client = client
            yield client
        except (RuntimeError, OSError) as error:
            self._client = None  # it may come back elsewhere
            raise JobServerError(str(error)) from error


def job_name(name: str, attempt: int) -> str:
    return name if attempt == 1 else f"{name}-{attempt}"
