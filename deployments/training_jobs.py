"""Ray jobs that train: submitted to the cluster's own job server, so that they outlive Serve's restarts."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
from ray.experimental.internal_kv import _internal_kv_get
from ray.job_submission import JobStatus, JobSubmissionClient

ROOT = Path(__file__).resolve().parents[1]


class TrainingJobs:
    """Blocking; one job per training, named as its row in `ai_training_log`."""

    def __init__(self) -> None:
        self._client: JobSubmissionClient | None = None

    def submit(self, run_id: str, *, tenant: str, store_id: int, model_type: str, parameters: dict[str, Any]) -> None:
        """Start a training.

        Raises:
            RuntimeError: The job server does not take it.
        """
        command = [sys.executable, "-m", "training.run", "--run-id", run_id, "--tenant", tenant]
        command += ["--store-id", str(store_id), "--model-type", model_type, "--parameters", json.dumps(parameters)]
        self._server().submit_job(
            entrypoint=shlex.join(command),
            submission_id=run_id,
            metadata={"store_id": str(store_id), "model_type": model_type},
            # The working directory is the project's, as for every process of the hub.
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "RAY_JOB_STOP_WAIT_TIME_S": "30"}},
        )

    def has_ended(self, run_id: str) -> str | None:
        """Return how the job ended, or None while it waits or runs; one nobody knows has ended as `unknown`."""
        try:
            status = self._server().get_job_status(run_id)
        except RuntimeError:
            return "unknown"
        return None if status in {JobStatus.PENDING, JobStatus.RUNNING} else str(status.value).lower()

    # Inside a worker the client's own guess is the default port, whatever the dashboard's really is.
    def _server(self) -> JobSubmissionClient:
        if self._client is None:
            address = _internal_kv_get(DASHBOARD_ADDRESS.encode(), namespace=KV_NAMESPACE_DASHBOARD)
            if address is None:
                raise RuntimeError("this cluster has no dashboard, and so no job server")
            self._client = JobSubmissionClient(f"http://{address.decode()}")
        return self._client
