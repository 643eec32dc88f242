"""Predictions and trainings as wire types."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from aihub.recsys.artifacts import Version
from aihub.recsys.predictions import Answer
from aihub.recsys.schemas import (
    Figures,
    ModelType,
    NextItemAnswer,
    NextItemPrediction,
    NextItemsAnswer,
    RecommendationsAnswer,
    RecommendedItem,
    RollbackAnswer,
    ServedModel,
    TrainingAnswer,
    TrainingJob,
    TrendingAnswer,
    TrendingItem,
)
from aihub.recsys.tables.runs import RunRecord, StoreModelRecord


def recommendations_answer(store_id: int, user_id: int, answer: Answer) -> RecommendationsAnswer:
    """Turn a prediction into its wire form."""
    return RecommendationsAnswer.model_construct(
        store_id=store_id,
        user_id=user_id,
        recommendations=[
            RecommendedItem.model_construct(item_id=item.item_id, variant_id=variant, score=item.score, rank=rank)
            for rank, (item, variant) in enumerate(zip(answer.items, answer.variants, strict=True), start=1)
        ],
        fallback=answer.fallback,
        model_version=answer.version,
    )


def trending_answer(store_id: int, answer: Answer) -> TrendingAnswer:
    """Turn a prediction into its wire form."""
    return TrendingAnswer.model_construct(
        store_id=store_id,
        trending=[TrendingItem.model_construct(**asdict(item), rank=rank) for rank, item in enumerate(answer.items, start=1)],
        model_version=answer.version,
    )


def next_items_answer(store_id: int, item_history: Sequence[int], answer: Answer) -> NextItemsAnswer:
    """Turn a prediction into its wire form."""
    rows = [
        asdict(item) | {"variant_id": variant, "rank": rank}
        for rank, (item, variant) in enumerate(zip(answer.items, answer.variants, strict=True), start=1)
    ]
    return NextItemsAnswer.model_construct(
        store_id=store_id,
        input_history=list(item_history),
        predictions=[NextItemPrediction.model_construct(**row) for row in rows],
        next_items=[
            NextItemAnswer.model_construct(
                **{name: value for name, value in row.items() if name != "support_share"} | {"support": row["support_share"]}
            )
            for row in rows
        ],
        fallback=answer.fallback,
        model_version=answer.version,
    )


def training_job(run: RunRecord) -> TrainingJob:
    """Turn a row of the log into its wire form."""
    fields = {name: value for name, value in asdict(run).items() if name not in {"id", "tenant_id", "metrics"}}
    return TrainingJob(job_id=run.id, metrics=_figures(run.metrics, run.version), **fields)


def training_answer(run: RunRecord) -> TrainingAnswer:
    """Turn a training that has succeeded into its wire form."""
    return TrainingAnswer.model_validate(
        {
            "store_id": run.store_id,
            "model_type": run.model_type,
            "metrics": _figures(run.metrics or {}, run.version),
            "model_path": run.model_path or "",
            "version": run.version or "",
            "served": bool(run.served),
            "incumbent_metrics": run.incumbent_metrics,
            "message": run.message or "",
            "job_id": run.id,
        }
    )


def served_model(record: StoreModelRecord) -> ServedModel:
    """Turn a row of `store_ai_status` into its wire form."""
    fields = {name: value for name, value in asdict(record).items() if name not in {"store_id", "metrics"}}
    return ServedModel(metrics=_figures(record.metrics, record.version) or {}, **fields)


def rollback_answer(store_id: int, model_type: ModelType, version: Version, model_path: str) -> RollbackAnswer:
    """Turn the version that answers now into its wire form."""
    figures = _figures(version.metrics, version.name) or {}
    return RollbackAnswer(store_id=store_id, model_type=model_type, version=version.name, model_path=model_path, metrics=figures)


def _figures(metrics: Mapping[str, float] | None, version: str | None) -> Figures | None:
    """Put the version beside its figures, spelled as clients of the earlier recommendation service know it: `v1.0`."""
    if metrics is None or version is None:
        return None if metrics is None else {**metrics}
    return {**metrics, "model_version": f"v{int(version)}.0"}
