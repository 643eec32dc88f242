"""One training from start to end: read the store, fit, compare with the served model, publish, write down. Blocking.

Runs anywhere Python does: in a Ray job, in the command line, in a test.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.errors import HubError, InternalError, ModelUnavailableError
from aihub.core.principal import DEFAULT_TENANT
from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.artifacts import GATES, ArtifactStore, ModelDamagedError, ModelType, Version
from aihub.recsys.data.extraction import Limits
from aihub.recsys.data.mapping import Mapping as ShopMapping
from aihub.recsys.data.mapping import load_mapping
from aihub.recsys.open_models import RESULTS
from aihub.recsys.results import Cancelled, Progress, TrainingCancelledError, ignore_progress, never_cancelled, raise_if_cancelled
from aihub.recsys.settings import RecsysSettings
from aihub.recsys.tables.session import ResultNotWrittenError, TrainingSession
from aihub.recsys.trainers import ModelTrainer, Trained
from aihub.recsys.training_data import read_training_data

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingPlace:
    """Where a training reads and writes.

    Attributes:
        hub_dsn: PostgreSQL of the hub: `ai_training_log`, `store_ai_status`, the lock.
        shop_dsn: PostgreSQL of the shop; may be the same.
        home: State folder; models go to `results` in it.
        keep_versions: Versions kept beside the served one.
    """

    hub_dsn: str
    shop_dsn: str
    mapping: ShopMapping
    home: Path
    limits: Limits = Limits()
    keep_versions: int = 3

    @classmethod
    def of(cls, settings: RecsysSettings, *, hub_dsn: str, home: Path) -> "TrainingPlace":
        """Take what the operator set.

        Raises:
            ConfigurationError: The mapping file is wrong.
        """
        return cls(
            hub_dsn=hub_dsn,
            shop_dsn=settings.database_url.get_secret_value() if settings.database_url else hub_dsn,
            mapping=load_mapping(settings.mapping),
            home=home,
            limits=Limits(settings.extraction_timeout_s, settings.max_events),
            keep_versions=settings.keep_versions,
        )

    def artifacts(self, tenant: str) -> ArtifactStore:
        return ArtifactStore(self.home / RESULTS, tenant=tenant, keep=self.keep_versions)

    def read(
        self, trainer: ModelTrainer, checkpoint: FitCheckpoint, tenant: str, store_id: int, parameters: Mapping[str, Any]
    ) -> Any:
        """Return what a training learns from; see `read_training_data`."""
        return read_training_data(
            self.shop_dsn, self.mapping, self.limits, trainer, checkpoint, tenant=tenant, store_id=store_id, parameters=parameters
        )


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """How a training ended well.

    Attributes:
        metrics, incumbent_metrics: The new and the until now served model on the same held-out data.
        model_path: Folder of the new version, relative to the state folder.
        served: Whether the new version answers from now on.
        message: The same in words.
    """

    training_id: str
    store_id: int
    model_type: ModelType
    metrics: dict[str, float]
    incumbent_metrics: dict[str, float] | None
    model_path: str
    version: str
    served: bool
    event_count: int
    message: str


def train(
    place: TrainingPlace,
    trainer: ModelTrainer,
    store_id: int,
    model_type: ModelType,
    parameters: Mapping[str, Any] | None = None,
    *,
    tenant: str = DEFAULT_TENANT,
    run_id: str | None = None,
    progress: Progress = ignore_progress,
    cancelled: Cancelled = never_cancelled,
) -> TrainingResult:
    """Train one model of one store and publish it.

    Args:
        place: Where to read and write.
        trainer: How such a model is read and fitted; see `aihub.recsys.trainers`.
        store_id: Number of the store.
        model_type: Which model.
        parameters: Hyper-parameters; the trainer's defaults for what is left out.
        tenant: Owner of the store.
        run_id: Row of `ai_training_log` that waits for this training, or that a killed process left; a new one when None.
        progress: Called with the step and the share done, also written to the log.
        cancelled: Asked between batches, as well as the log.

    Raises:
        ConflictError: The same store and model is being trained.
        TrainingCancelledError: It was asked to stop.
        NotEnoughDataError: The store has too few events.
        HubError: The shop cannot be read; other failures of the fit.
    """
    chosen = dict(parameters or {})
    session = TrainingSession(place.hub_dsn, tenant=tenant, store_id=store_id, model_type=model_type, run_id=run_id)
    session.open(chosen)

    def report(step: str, share: float) -> None:
        session.report(step, share)
        progress(step, share)

    def is_cancelled() -> bool:
        return session.is_cancelled() or cancelled()

    with _opened(session, lambda: place.artifacts(tenant).clear_checkpoint(store_id, model_type, session.run_id)):
        raise_if_cancelled(is_cancelled)
        report("reading the store", 0.0)
        artifacts = place.artifacts(tenant)
        version = _published(artifacts, store_id, model_type, session.run_id)
        if version is None:
            checkpoint = FitCheckpoint(artifacts.checkpoint_folder(store_id, model_type, session.run_id), session.run_id)
            data = place.read(trainer, checkpoint, tenant, store_id, chosen)
            raise_if_cancelled(is_cancelled)
            trained = trainer.fit(data, chosen, progress=report, cancelled=is_cancelled, checkpoint=checkpoint)
            raise_if_cancelled(is_cancelled)
            report("publishing", 0.0)
            version = _publish(artifacts, trained, store_id, model_type, chosen, len(data), session.run_id)
        result = _result(place, version, store_id, model_type)
        session.succeed(_log_row(result))
        artifacts.clear_checkpoint(store_id, model_type, session.run_id)
        report("publishing", 1.0)
        return result


def compare(
    place: TrainingPlace,
    trainer: ModelTrainer,
    store_id: int,
    model_type: ModelType,
    parameters: Mapping[str, Any],
    *,
    tenant: str = DEFAULT_TENANT,
    progress: Progress = ignore_progress,
) -> tuple[dict[str, float], dict[str, float] | None]:
    """Fit on what the store has now without publishing; return the figures of that and of the served model on the same data.

    Raises:
        NotEnoughDataError: The store has too few events.
        HubError: The shop cannot be read.
    """
    nowhere = FitCheckpoint()
    data = place.read(trainer, nowhere, tenant, store_id, parameters)
    trained = trainer.fit(data, parameters, progress=progress, cancelled=never_cancelled, checkpoint=nowhere)
    return dict(trained.metrics), evaluate_served(place.artifacts(tenant), store_id, model_type, trained)


def evaluate_served(artifacts: ArtifactStore, store_id: int, model_type: ModelType, trained: Trained) -> dict[str, float] | None:
    """Return the served version's figures on the held-out data of `trained`; None when there is none to compare."""
    try:
        served = artifacts.open(store_id, model_type)
        return trained.evaluate(served)
    except (ModelDamagedError, ModelUnavailableError) as error:
        logger.warning("%s It does not stand against the new one.", error.message)
        return None
    except HubError as error:
        if error.code == "model_not_trained":
            return None
        raise


def _published(artifacts: ArtifactStore, store_id: int, model_type: ModelType, run_id: str) -> Version | None:
    """The version of this very training, whose process was killed before it could write down its success."""
    for found in artifacts.versions(store_id, model_type):
        if found.card.get("training_id") == run_id:
            return artifacts.finish_publishing(store_id, model_type, found)
    return None


def _publish(
    artifacts: ArtifactStore,
    trained: Trained,
    store_id: int,
    model_type: ModelType,
    parameters: Mapping[str, Any],
    event_count: int,
    run_id: str,
) -> Version:
    incumbent = evaluate_served(artifacts, store_id, model_type, trained)
    card = {
        "parameters": dict(parameters),
        "event_count": event_count,
        "training_id": run_id,
        "details": dict(trained.details),
    }
    return artifacts.publish(store_id, model_type, trained.save, metrics=trained.metrics, incumbent_metrics=incumbent, card=card)


def _result(place: TrainingPlace, version: Version, store_id: int, model_type: ModelType) -> TrainingResult:
    incumbent = version.card["incumbent_metrics"]
    message = _verdict(version, model_type, incumbent)
    logger.info("Store %d, %s: %s", store_id, model_type, message)
    return TrainingResult(
        training_id=version.card["training_id"],
        store_id=store_id,
        model_type=model_type,
        metrics=version.metrics,
        incumbent_metrics=incumbent,
        model_path=version.path.relative_to(place.home).as_posix(),
        version=version.name,
        served=version.is_served,
        event_count=version.card["event_count"],
        message=message,
    )


def _verdict(version: Version, model_type: ModelType, incumbent: Mapping[str, float] | None) -> str:
    metric = GATES[model_type].metric
    new = version.metrics[metric]
    if incumbent is None:
        return f"Version {version.name} is served: {metric} {new:.4f}."
    word = "is served" if version.is_served else "is kept but not served, as it is worse"
    return f"Version {version.name} {word}: {metric} {new:.4f}, the served one had {incumbent[metric]:.4f} on the same data."


def _log_row(result: TrainingResult) -> dict[str, Any]:
    names = ("event_count", "metrics", "incumbent_metrics", "version", "served", "model_path", "message")
    return {name: getattr(result, name) for name in names}


@contextmanager
def _opened(session: TrainingSession, clear_checkpoint: Callable[[], None]) -> Iterator[None]:
    """Close a session at the end; only a process that is killed leaves its checkpoint."""
    try:
        with _ends_written(session):
            yield
    except Exception:
        clear_checkpoint()
        raise
    finally:
        session.close()


@contextmanager
def _ends_written(session: TrainingSession) -> Iterator[None]:
    """Write down how a training failed before the error goes on."""
    try:
        yield
    except TrainingCancelledError as error:
        _end(session, "cancelled", error)
        raise
    except ResultNotWrittenError:
        # No failure: the version is there. Who finds the training open starts it again, and it has only this left to do.
        raise
    except HubError as error:
        _end(session, "failed", error)
        raise
    except Exception as error:
        logger.exception("The training failed")
        failure = InternalError("The training failed inside; the log of its job says where.")
        _end(session, "failed", failure)
        raise failure from error
    except BaseException:
        _end(session, "interrupted", InternalError("The process was stopped."))
        raise


def _end(session: TrainingSession, status: str, error: HubError) -> None:
    try:
        session.end(status, code=error.code, message=error.message)
    except HubError as second:
        logger.warning("The end of training %s could not be written down: %s", session.run_id, second.message)
