"""Ray jobs that train: submitted to the cluster's own job server, so that they outlive Serve's restarts."""

import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.job_submission import JobStatus, JobSubmissionClient

from aihub.recsys.training_jobs import JobServerError, JobState
from deployments.ray_compat import find_job_server

ROOT = Path(__file__).resolve().parents[1]


class TrainingJobs:
    """Blocking. One job per start of a training, named as its row in `ai_training_log`, from the second on with a number."""

    def __init__(self) -> None:
        self._client: JobSubmissionClient | None = None

    def submit(
        self, run_id: str, attempt: int, *, tenant: str, store_id: int, model_type: str, parameters: dict[str, Any]
    ) -> None:
        """Start a training.

        Raises:
            JobServerError: The job server does not take it.
        """
        command = [sys.executable, "-m", "training.run", "--run-id", run_id, "--tenant", tenant]
        command += ["--store-id", str(store_id), "--model-type", model_type, "--parameters", json.dumps(parameters)]
        # On a machine with two clusters Ray tells a job, and what the job starts, the address of either.
        cluster = ray.get_runtime_context().gcs_address
        command += ["--cluster", cluster]
        with self._server() as server:
            server.submit_job(
                entrypoint=shlex.join(command),
                submission_id=job_name(run_id, attempt),
                metadata={"store_id": str(store_id), "model_type": model_type},
                # The working directory is the project's, as for every process of the hub.
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": cluster, "RAY_JOB_STOP_WAIT_TIME_S": "10"}},
            )

    def state(self, run_id: str, attempt: int) -> JobState:
        """Tell what became of a job.

        Raises:
            JobServerError: Nobody can tell now.
        """
        with self._server() as server:
            try:
                status = server.get_job_status(job_name(run_id, attempt))
            except RuntimeError as error:
                if "status code 404" in str(error):
                    return "unknown"
                raise
        if status in {JobStatus.PENDING, JobStatus.RUNNING}:
            return "alive"
        return "stopped" if status == JobStatus.STOPPED else "ended"

    def stop(self, run_id: str, attempt: int) -> None:
        """End a job's processes, by force after ten seconds; one that has ended stays as it is.

        Raises:
            JobServerError: The job server does not answer.
        """
        with self._server() as server:
            server.stop_job(job_name(run_id, attempt))

    @contextmanager
    def _server(self) -> Iterator[JobSubmissionClient]:
        try:
            client = self._client or JobSubmissionClient(find_job_server())
            self._client = client
            yield client
        except (RuntimeError, OSError) as error:
            self._client = None  # it may come back elsewhere
            raise JobServerError(str(error)) from error


def job_name(run_id: str, attempt: int) -> str:
    return run_id if attempt == 1 else f"{run_id}-{attempt}"
