"""A fine-tuning on Ray Train: its workers are replaced when one dies, and go on from the last checkpoint."""

import os
import shutil
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from aihub.core.errors import HubError, InternalError
from training.worker_task import WorkerResult, WorkerTask

WORKER_CPUS = 0.5
"""Bookkeeping only: on a machine with two cores serving has taken most of Ray's."""
SHARED_GPU, OWN_GPU = 0.1, 0.6
"""Bookkeeping as well: a single worker shares the card with the models, of several each has a card."""
MAX_FAILURES = 2
MAX_START_FAILURES = 10
"""Workers that died or were not ready in time before they began; on a busy machine a few are usual."""
NICENESS = 10


class WorkersDiedError(InternalError):
    """The workers of a training died again and again."""

    code = "training_died"


def train_on_workers(task: WorkerTask, *, workers: int) -> WorkerResult:
    """Train and return the result of the first worker. Blocking.

    Args:
        workers: How many share each step.

    Raises:
        HubError: What the training failed with.
        WorkersDiedError: A worker died `MAX_FAILURES` times more; the last reason is in the message.
    """
    scaling, backend = scale(workers, cards=int(ray.cluster_resources().get("GPU", 0)))
    shutil.rmtree(task.folder.ray, ignore_errors=True)  # of a start that was killed
    trainer = TorchTrainer(
        _work_here,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend=backend),
        scaling_config=scaling,
        run_config=RunConfig(
            name=f"{task.job_id}-{task.attempt}",
            storage_path=str(task.folder.ray),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_START_FAILURES),
        ),
    )
    try:
        outcome = trainer.fit().return_value
    except TrainingFailedError as error:
        raise WorkersDiedError(
            f"The workers of the training died {MAX_FAILURES + 1} times ({_reason_of(error)}). Its last checkpoint is kept: "
            "resume the job to go on from there."
        ) from error
    finally:
        shutil.rmtree(task.folder.ray, ignore_errors=True)
    if isinstance(outcome, HubError):
        raise outcome
    if not isinstance(outcome, WorkerResult):
        raise InternalError("The training gave no result; the log of its job says why.")
    return outcome


def scale(workers: int, *, cards: int) -> tuple[ScalingConfig, str]:
    """Return what the workers ask Ray for, and how they talk to each other.

    Args:
        cards: Graphics cards of the cluster.
    """
    resources = {"CPU": WORKER_CPUS}
    if cards:
        resources["GPU"] = OWN_GPU if 1 < workers <= cards else SHARED_GPU
    # NCCL refuses two workers on one card.
    backend = "nccl" if workers <= cards else "gloo"
    return ScalingConfig(num_workers=workers, use_gpu=cards > 0, resources_per_worker=resources), backend


def _work_here(config: dict[str, Any]) -> WorkerResult | HubError | None:
    """Run in a worker. An error of the data is a result: trying again would not help."""
    from training.worker import work

    os.nice(NICENESS)
    try:
        return work(config["task"])
    except HubError as error:
        return error


def _reason_of(error: TrainingFailedError) -> str:
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    cause = next(iter(failures), error)
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[-1]}" if lines else type(cause).__name__
