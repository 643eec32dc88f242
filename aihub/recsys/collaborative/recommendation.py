"""Training of a store's recommender: several kinds of models on the same split; the best of them, or a blend, is kept.

The figures are of models that have not learnt the held-out events; what is kept learns them afterwards.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import InvalidRequestError
from aihub.recsys.array_files import FitCheckpoint
from aihub.recsys.collaborative.blending import BlendedRecommender, StoreRecommender, choose_weights, spread_of
from aihub.recsys.collaborative.evaluation import HoldOut, by_id, evaluate, log_losses, rank_metrics, split_events
from aihub.recsys.collaborative.fits import Model, RecommenderFits
from aihub.recsys.collaborative.settings import RecommendationSettings
from aihub.recsys.data.interactions import Interactions
from aihub.recsys.results import Cancelled, Progress, ignore_progress, never_cancelled, raise_if_cancelled

logger = logging.getLogger(__name__)

LARGEST_BLENDED_CATALOGUE = 50_000
"""Items; a blend scores all of them for an answer, where factors alone look at a few."""

_POPULAR = "popular"


@dataclass(frozen=True, slots=True, eq=False)
class RecommendationFit:
    """What is kept.

    Attributes:
        recommender: To save and serve.
        metrics: `hr_10`, `ndcg_10` of it; the same with the name of each family before them (`popular_`, `ials_` ...), and its
            seconds (`ials_s`); `margin` in NDCG over the best family that is not kept alone; `fit_s`; numbers of users, items and
            pairs; `train_loss` and `val_loss` of what is kept (see `log_losses`); `cached_users`, the customers it has learnt.
        hold_out: Cases by id: judge the model now served on them, too, by `evaluate(model.as_judged(), hold_out)`.
        candidates: Each family that was tried, without what was held out.
        complete: Fits a family of these with it, too.
    """

    recommender: StoreRecommender
    metrics: dict[str, float]
    hold_out: HoldOut
    candidates: Mapping[str, Model]
    complete: Callable[[str], Model]


def fit_recommendation(
    data: Interactions,
    settings: RecommendationSettings,
    progress: Progress = ignore_progress,
    cancelled: Cancelled = never_cancelled,
    *,
    checkpoint: FitCheckpoint | None = None,
) -> RecommendationFit:
    """Train each family and keep the best one or a blend; nothing that is below popularity on the hold-out.

    Args:
        checkpoint: A training that was killed goes on from the settings, the factors and the epoch of NeuMF found there.

    Raises:
        InvalidRequestError: No user has two items or more, or there are fewer than three items.
        TrainingCancelledError: `cancelled` turned True.
    """
    indexed = data.index()
    pairs = indexed.pairs()
    train, cases = split_events(pairs, indexed.user_table, indexed.item_table, most=settings.held_out_events)
    if pairs.n_items < 3 or not len(cases):
        raise InvalidRequestError(
            "This store has too few interactions to learn from: at least three items and some users with two of them or more "
            "are needed. Import orders or carts, then train again."
        )
    run = RecommenderFits(indexed, pairs, train, cases, settings, progress, cancelled, checkpoint or FitCheckpoint())
    families = dict.fromkeys((_POPULAR, *settings.families))
    fitted = {family: model for family in families if (model := run.fit(family)) is not None}
    hold_out = by_id(cases, indexed.user_table, indexed.item_table)
    scores = {family: model.score(hold_out.users, hold_out.candidates) for family, model in fitted.items()}
    figures = {family: rank_metrics(each, cases.candidates) for family, each in scores.items()}
    raise_if_cancelled(cancelled)
    weights = _choose(fitted, scores, figures, settings, cases, pairs.n_items)
    kept = _assemble(weights, fitted, run)
    judged = kept.as_judged()
    metrics = _metrics(evaluate(judged, hold_out), weights, figures, run) | {
        "users": float(pairs.n_users),
        "items": float(pairs.n_items),
        "pairs": float(len(pairs.items)),
        "cached_users": len(kept.user_ids),
        **log_losses(judged, train, pairs, hold_out, indexed.user_table, indexed.item_table),
    }
    logger.info("recommendation trained", extra={"winner": kept.family, "metrics": metrics})
    progress("done", 1.0)
    notes: dict[str, Any] = {
        "metrics": metrics,
        "weights": weights,
        "ials": asdict(run.factors.chosen),
        "neumf": asdict(settings.neumf),
        "linear": run.linear,
        "left_out": run.left_out,
        "seconds": run.seconds,
        "neumf_epochs": run.neumf_epochs,
    }
    return RecommendationFit(
        replace(kept, notes=notes), metrics, hold_out, fitted, lambda family: run.complete(family, fitted[family])
    )  # fmt: skip


def _choose(
    fitted: dict[str, Model],
    scores: dict[str, NDArray[np.float32]],
    figures: dict[str, dict[str, float]],
    settings: RecommendationSettings,
    cases: HoldOut,
    catalogue_size: int,
) -> dict[str, float]:
    """Weights of what is kept. Popularity takes part in a blend; alone it is kept only when nothing else is as good."""
    floor = figures[_POPULAR]["ndcg_10"]
    worthy = [family for family in fitted if family in settings.families and figures[family]["ndcg_10"] >= floor]
    if not worthy:
        return {_POPULAR: 1.0}
    if not settings.blend or len(worthy) == 1 or catalogue_size > LARGEST_BLENDED_CATALOGUE:
        # What differs by less than this is the same: the family that comes first is the simpler one.
        return {max(worthy, key=lambda family: round(figures[family]["ndcg_10"], 3)): 1.0}
    voices: list[str] = [family for family in settings.families if family in fitted]
    comparable = {family: scores[family] / spread_of(fitted[family], cases.users)[:, None] for family in voices}
    return choose_weights(comparable, cases.candidates)


def _assemble(weights: dict[str, float], fitted: dict[str, Model], run: RecommenderFits) -> StoreRecommender:
    members = {family: run.complete(family, fitted[family]) for family in weights}
    if len(members) == 1:
        return next(iter(members.values()))
    return BlendedRecommender(run.catalogue, members, weights)


def _metrics(
    best: dict[str, float], weights: dict[str, float], figures: dict[str, dict[str, float]], run: RecommenderFits
) -> dict[str, float]:
    metrics = {**best, "fit_s": time.monotonic() - run.started}
    for family, each in figures.items():
        metrics |= {f"{family}_hr_10": each["hr_10"], f"{family}_ndcg_10": each["ndcg_10"], f"{family}_s": run.seconds[family]}
    others = [each["ndcg_10"] for family, each in figures.items() if weights.get(family) != 1.0]
    return metrics | {"margin": best["ndcg_10"] - max(others, default=0.0)}
