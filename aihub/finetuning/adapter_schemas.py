"""Wire types of adapters."""

from dataclasses import asdict
from typing import Any

from aihub.core.schemas import ClosedModel, ModelName, ResponseModel
from aihub.finetuning.adapter_folder import Adapter

NOT_HELD_OUT = (
    "There were no rows held out: it was compared with its base on rows that it was trained on, which says little of new ones. "
    "Train with a validation file, or a share of the rows held out, to know."
)


class ScoreReport(ResponseModel):
    """How one model did: loss in nats a token, and the share of answers right word for word; null where not measured."""

    loss: float | None
    exact: float | None


class EvaluationAnswer(ResponseModel):
    """The adapter beside its base, and the version promoted at that time, on the same rows.

    Attributes:
        objection: Why it is not promoted without force; null where there is nothing against it.
    """

    rows: int
    asked_rows: int
    is_held_out: bool
    base: ScoreReport
    candidate: ScoreReport
    current_id: str | None
    current: ScoreReport | None
    objection: str | None


class AdapterReport(ResponseModel):
    """One version of an adapter.

    Attributes:
        alias: The name without a version that it answers to; null unless it is promoted.
        notes: What to know before it is promoted.
    """

    id: str
    alias: str | None
    base_model: str
    name: str
    version: int
    is_promoted: bool
    created_at: int
    rank: int
    size_bytes: int
    job_id: str
    data_sha256: str
    validation_sha256: str | None
    settings: dict[str, Any]
    metrics: dict[str, Any]
    evaluation: EvaluationAnswer
    notes: list[str]


class AdapterReports(ResponseModel):
    adapters: list[AdapterReport]


class RollbackReport(ResponseModel):
    """What an alias stands for after a rollback; null when no version is promoted any more."""

    alias: str
    id: str | None
    adapter: AdapterReport | None


class MergeReport(ResponseModel):
    """The model that base and adapter have become."""

    model_id: str
    path: str
    size_bytes: int


class AdapterRequest(ClosedModel):
    adapter_id: ModelName


class PromoteRequest(AdapterRequest):
    """`force` promotes a version that is worse than what it was compared with, or was compared with another one."""

    force: bool = False


def adapter_report(adapter: Adapter) -> AdapterReport:
    """Tell of an adapter."""
    manifest, version = adapter.manifest, adapter.id.version
    assert version is not None  # noqa: S101  # adapters in the store have one
    evaluation = manifest.evaluation
    objection = evaluation.find_objection(manifest.base_model)
    return AdapterReport(
        id=adapter.adapter_id,
        alias=adapter.id.alias if adapter.is_promoted else None,
        base_model=manifest.base_model,
        name=manifest.name,
        version=version,
        is_promoted=adapter.is_promoted,
        created_at=manifest.created_at,
        rank=manifest.rank,
        size_bytes=adapter.size_bytes,
        job_id=manifest.job_id,
        data_sha256=manifest.data_sha256,
        validation_sha256=manifest.validation_sha256,
        settings=manifest.settings,
        metrics=manifest.metrics,
        evaluation=EvaluationAnswer.model_validate(asdict(evaluation) | {"objection": objection}),
        notes=[] if evaluation.is_held_out and evaluation.rows else [NOT_HELD_OUT],
    )
