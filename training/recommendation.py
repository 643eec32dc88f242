"""NeuMF and matrix factors on one Ray Train worker, which is replaced when it dies and goes on from its checkpoint."""

import os
import shutil
from dataclasses import asdict
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from aihub.core.errors import HubError, InternalError
from aihub.recsys.open_models import RUN_NOTES
from aihub.recsys.tables.runs import training_died
from aihub.recsys.tables.session import write_failure
from aihub.recsys.training import TrainingPlace, TrainingResult

WORKER_CPUS = 0.5
"""Bookkeeping only: on a machine with two cores serving has taken most of Ray's."""
MAX_FAILURES = 2
MAX_START_FAILURES = 10
"""Workers that died or were not ready in time before they began; on a busy machine a few are usual."""
NICENESS = 10


def train_on_worker(
    place: TrainingPlace, store_id: int, parameters: dict[str, Any], *, tenant: str, run_id: str
) -> TrainingResult:
    """Train on a worker and return its result.

    A worker that is killed is started again up to `MAX_FAILURES` times; the fit continues from the checkpoint folder of the
    store and model. When this process itself is killed, the hub starts its job again.

    Raises:
        HubError: What the training failed with.
        InternalError: Its worker died again and again; that is written down.
    """
    storage = place.home / RUN_NOTES
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    trainer = TorchTrainer(
        _train_here,
        train_loop_config={
            "place": place,
            "store_id": store_id,
            "parameters": parameters,
            "tenant": tenant,
            "run_id": run_id,
        },
        scaling_config=ScalingConfig(
            num_workers=1, use_gpu=has_gpu, resources_per_worker={"CPU": WORKER_CPUS} | ({"GPU": 0.1} if has_gpu else {})
        ),
        run_config=RunConfig(
            name=run_id,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_START_FAILURES),
        ),
    )
    try:
        outcome = trainer.fit().return_value
    except WorkerGroupError as error:
        failure = training_died(run_id, MAX_FAILURES + 1)
        write_failure(place.hub_dsn, tenant=tenant, run_id=run_id, error=failure)
        raise failure from error
    finally:
        # Ray keeps notes of the run there; nothing of the model.
        shutil.rmtree(storage / run_id, ignore_errors=True)
    if isinstance(outcome, HubError):
        raise outcome
    if not isinstance(outcome, dict):
        raise InternalError("The training gave no result; the log of its job says why.")
    return TrainingResult(**outcome)


def _train_here(config: dict[str, Any]) -> dict[str, Any] | HubError:
    """Run in the worker. An error of the data is a result: trying again would not help."""
    from aihub.recsys.trainers import choose_trainer
    from aihub.recsys.training import train

    os.nice(NICENESS)
    try:
        result = train(
            config["place"],
            choose_trainer("recommendation"),
            config["store_id"],
            "recommendation",
            config["parameters"],
            tenant=config["tenant"],
            run_id=config["run_id"],
        )
    except HubError as error:
        return error
    return asdict(result)
