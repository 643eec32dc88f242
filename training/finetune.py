"""One fine-tuning, as the entry point of a Ray job: `python -m training.finetune --job-id ftjob-... --attempt 1 ...`.

Where it stands is read from `finetuning_jobs`, not from the Ray job: the row outlives the cluster. The status stays `running`
once the adapter is trained; the hub asks it in the serving engine and publishes it.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

import ray

from aihub.core.errors import HubError
from aihub.core.logging import configure_logging
from aihub.core.schemas import validate
from aihub.core.settings import Settings
from aihub.finetuning.adapter_folder import Adapter, AdapterDamagedError
from aihub.finetuning.adapter_store import AdapterStore
from aihub.finetuning.job_folder import JobFolder
from aihub.finetuning.results import TrainingCancelledError
from aihub.finetuning.settings import FineTuningSettings
from aihub.finetuning.tables.session import JobSession, RunningJob
from training.launch import NICENESS, train_on_workers
from training.run import embedded_database_url
from training.worker_task import WorkerTask

logger = logging.getLogger("training.finetune")


def main() -> None:
    """Train; a `HubError` ends in one line and exit status 1, as the job's row has the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job-id", required=True)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--attempt", type=int, required=True, help="which start of the job this is")
    parser.add_argument("--base-folder", type=Path, required=True, help="folder of the model that is trained")
    parser.add_argument("--workers", type=int, default=1, help="how many share each step")
    parser.add_argument("--cluster", default="auto", help="address of the Ray cluster whose hub this is")
    options = parser.parse_args()
    configure_logging()
    os.nice(NICENESS)
    try:
        run(
            options.job_id,
            tenant=options.tenant,
            attempt=options.attempt,
            base=options.base_folder,
            workers=options.workers,
            cluster=options.cluster,
        )
    except HubError as error:
        logger.error("%s", error.message)
        sys.exit(1)
    logger.info("The job %s is trained.", options.job_id)


def run(job_id: str, *, tenant: str, attempt: int, base: Path, workers: int, cluster: str) -> None:
    """Train the adapter of one job and write down how that ended.

    Raises:
        HubError: What the training failed with, or was stopped by.
    """
    settings = Settings()
    dsn = settings.database_url.get_secret_value() if settings.database_url else embedded_database_url(settings.home_path)
    session = JobSession(dsn, tenant=tenant, job_id=job_id, attempt=attempt, lost=_leave)
    job = session.open()
    try:
        ray.init(address=cluster, log_to_driver=False)
        try:
            task = _describe(job, settings.home_path, dsn=dsn, tenant=tenant, attempt=attempt, base=base)
            result = train_on_workers(task, workers=workers)
        except TrainingCancelledError:
            session.stop()
            raise
        except HubError as error:
            session.fail(error)
            raise
        session.hand_over(metrics=result.metrics, evaluation=result.evaluation, trained_tokens=result.trained_tokens)
    finally:
        session.close()


def _describe(job: RunningJob, home: Path, *, dsn: str, tenant: str, attempt: int, base: Path) -> WorkerTask:
    current = _find_current(job, home)
    validation = job.datasets.get("validation")
    return WorkerTask(
        dsn=dsn,
        tenant=tenant,
        job_id=job.id,
        attempt=attempt,
        folder=JobFolder.of(home, job.id),
        base=base,
        base_name=job.base_model,
        settings=validate(FineTuningSettings, job.settings),
        training_sha256=job.datasets["training"]["sha256"],
        validation_sha256=validation["sha256"] if validation else None,
        current=(current.adapter_id, current.path) if current is not None else None,
    )


def _find_current(job: RunningJob, home: Path) -> Adapter | None:
    """Return the adapter in use, which the new one is compared with; a damaged one counts as none."""
    try:
        return AdapterStore(home).promoted(job.base_model, job.name)
    except AdapterDamagedError as error:
        logger.warning("The job %s is compared with its base alone: %s", job.id, error.message)
        return None


def _leave() -> None:
    """End this process at once, and with it its workers: the job is another's now."""
    os._exit(1)


if __name__ == "__main__":
    main()
