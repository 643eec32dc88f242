"""One training, as the entry point of a Ray job: `python -m training.run --run-id ... --store-id 1 --model-type trending`.

Where it stands is read from `ai_training_log`, not from the job: the row outlives the cluster.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import ray

from aihub.core.embedded.stores import running_urls
from aihub.core.errors import ConfigurationError, HubError
from aihub.core.logging import configure_logging
from aihub.core.settings import Settings
from aihub.recsys.artifacts import ModelType
from aihub.recsys.settings import RecsysSettings
from aihub.recsys.trainers import choose_trainer
from aihub.recsys.training import TrainingPlace, TrainingResult, train

logger = logging.getLogger("training.run")

NICENESS = 10
"""Added to this process and its workers: training takes what serving leaves."""


def main() -> None:
    """Train; a `HubError` ends in one line and exit status 1, as the log row has the rest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--store-id", type=int, required=True)
    parser.add_argument("--model-type", choices=["recommendation", "trending", "next_item"], required=True)
    parser.add_argument("--parameters", type=json.loads, default={}, help="hyper-parameters as JSON")
    parser.add_argument("--cluster", default="auto", help="address of the Ray cluster whose hub this is")
    options = parser.parse_args()
    configure_logging()
    os.nice(NICENESS)
    ray.init(address=options.cluster, log_to_driver=False)
    try:
        result = run(options.run_id, options.tenant, options.store_id, options.model_type, options.parameters)
    except HubError as error:
        logger.error("%s", error.message)
        sys.exit(1)
    logger.info("%s", result.message)


def run(run_id: str, tenant: str, store_id: int, model_type: ModelType, parameters: dict[str, Any]) -> TrainingResult:
    """Train one model of one store; NeuMF's family on a Ray Train worker, the others here."""
    settings = Settings()
    dsn = settings.database_url.get_secret_value() if settings.database_url else embedded_database_url(settings.home_path)
    place = TrainingPlace.of(RecsysSettings(), hub_dsn=dsn, home=settings.home_path)
    if model_type == "recommendation":
        from training.recommendation import train_on_worker

        return train_on_worker(place, store_id, parameters, tenant=tenant, run_id=run_id)
    return train(place, choose_trainer(model_type), store_id, model_type, parameters, tenant=tenant, run_id=run_id)


def embedded_database_url(home: Path) -> str:
    """Return the address of the embedded PostgreSQL of a state folder.

    Raises:
        ConfigurationError: None runs there.
    """
    running = running_urls(home)
    if running is None:
        raise ConfigurationError(f"No embedded PostgreSQL runs in {home}. Start the hub, or set DATABASE_URL.")
    return running.database_url


if __name__ == "__main__":
    main()
